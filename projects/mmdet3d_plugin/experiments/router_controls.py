"""What if the router had decided otherwise? Changes of its weights at test time, without training, for experiments."""
import torch
from torch import nn

from ..models.utils.aqr.routing_record import RoutingRecord
from ..models.utils.aqr.supervision import routing_targets

CONTROLS = ('learned', 'off', 'averaged', 'shuffled', 'oracle')


class ControlledRouter(nn.Module):
    """Stands in a head's place for its router and changes the weights that this gives.

    Controls: 'learned' as they are; 'off' all 0.5, so that there is no bias; 'averaged' each sample's mean over queries
    for all of them; 'shuffled' dealt out anew among the queries of a sample; 'oracle' the targets of the simulated
    failure (0.5 where it gives none), for which ``img_metas`` need ``failure``.

    Args:
        head (CmtHead): with ``enable_aqr``; the router is replaced in it.
        seed (int): of the shuffling, see ``restart``.

    Raises:
        ValueError: for a head without router; in ``select``, for an unknown control.
    """

    def __init__(self, head, seed=0):
        super().__init__()
        if not head.enable_aqr:
            raise ValueError('router controls need a model with pts_bbox_head.enable_aqr=True')
        self.router = head.aqr_router
        self.control = 'learned'
        self.seed = seed
        self.generator = torch.Generator()
        self.restart()
        head.aqr_router = self

    def restart(self):
        """Shuffle from now on as from the beginning, so that a series of samples does not depend on earlier ones."""
        self.generator.manual_seed(self.seed)

    def select(self, control):
        """Apply one of ``CONTROLS`` from now on."""
        if control not in CONTROLS:
            raise ValueError(f'control must be one of {CONTROLS}, got {control!r}')
        self.control = control

    def forward(self, query_embed, x, x_img, reference_points, img_metas, pc_range, bev_cell_size, layout):
        """As ``AQRWeightGenerator``."""
        lidar, camera, projections = self.router(query_embed, x, x_img, reference_points, img_metas, pc_range,
                                                 bev_cell_size, layout)
        if self.control == 'off':
            lidar, camera = torch.full_like(lidar, 0.5), torch.full_like(camera, 0.5)
        elif self.control == 'averaged':
            lidar, camera = (w.mean(dim=1, keepdim=True).expand_as(w) for w in (lidar, camera))
        elif self.control == 'shuffled':
            order = torch.stack([torch.randperm(lidar.shape[1], generator=self.generator) for _ in lidar])
            order = order.to(lidar.device)
            lidar, camera = lidar.gather(1, order), camera.gather(1, order)
        elif self.control == 'oracle':
            everywhere = torch.ones_like(lidar, dtype=torch.bool)
            record = RoutingRecord(lidar, camera, projections, everywhere[0], everywhere, reference_points, None)
            targets = routing_targets(record, img_metas, pc_range, bev_cell_size)
            weights = torch.where(targets.is_known.unsqueeze(-1), targets.weights, 0.5)
            lidar, camera = weights.unbind(-1)
        return lidar, camera, projections
