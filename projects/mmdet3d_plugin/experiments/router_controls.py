"""What if the router had decided otherwise, or a sensor said nothing? Changes at test time, without training."""
from typing import NamedTuple, Optional

import torch
from torch import nn

from ..models.utils.aqr.looks import RouterEvidence
from ..models.utils.aqr.query_projection import project_queries
from ..models.utils.aqr.supervision import routing_targets
from ..models.utils.attention_bias_generator import check_bias_strength

CONTROLS = ('learned', 'off', 'averaged', 'shuffled', 'oracle')
ALONE = dict(lidar_alone='lidar', camera_alone='camera')  # control -> the sensor that is left, see with_modality
_WITHOUT_ROUTER = ('off', 'oracle', *ALONE)
CONTROLS_HELP = f'{", ".join(CONTROLS)} (but for off also with a strength of the bias: oracle:5), {", ".join(ALONE)}'


class Control(NamedTuple):
    """One way to test a model: a word of ``CONTROLS`` or ``ALONE``, and a strength of the bias, None for its own."""

    name: str
    strength: Optional[float] = None

    @classmethod
    def parse(cls, text):
        """Read a control, such as 'off' or 'oracle:5'.

        Raises:
            ValueError: for others, naming what is allowed.
        """
        name, colon, number = str(text).partition(':')
        try:
            if name in CONTROLS and name != 'off' and colon:
                return cls(name, check_bias_strength(float(number), f'strength of {name}'))
        except ValueError as error:
            raise ValueError(f'control {text!r}: {error}; allowed: {CONTROLS_HELP}') from error
        if colon or name not in (*CONTROLS, *ALONE):
            raise ValueError(f'control must be one of {CONTROLS_HELP}; got {text!r}')
        return cls(name)

    def __str__(self):
        return self.name if self.strength is None else f'{self.name}:{self.strength:g}'

    @property
    def modality(self):
        """str: the sensors that are left, see ``with_modality``."""
        return ALONE.get(self.name, 'both')

    @property
    def file_name(self):
        """str: as part of a file name."""
        return str(self).replace(':', '_')


class ControlledRouter(nn.Module):
    """Stands in a head's place for its router and changes the weights that this gives.

    Controls: 'learned' as they are; 'off' all 0.5, so that there is no bias, also for ``ALONE``; 'averaged' each
    sample's mean over queries for all of them; 'shuffled' dealt out anew among the queries of a sample; 'oracle' the
    targets of the simulated failure (0.5 where it gives none), for which ``img_metas`` need ``failure``.

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
        self.detach = getattr(self.router, 'detach', False)
        self.control = Control('learned')
        self.seed = seed
        self.generator = torch.Generator()
        self._bias = (head.aqr_bias, )  # in a tuple: a module of the head, not of this one
        self._own_strength = head.aqr_bias.bias_strength
        self.restart()
        head.aqr_router = self

    @property
    def needs_looks(self):
        """Whether the head has to give looks: not where the router's own weights do not matter."""
        return getattr(self.router, 'needs_looks', False) and self.control.name not in _WITHOUT_ROUTER

    def restart(self):
        """Shuffle from now on as from the beginning, so that a series of samples does not depend on earlier ones."""
        self.generator.manual_seed(self.seed)

    def select(self, control):
        """Apply a control, see ``Control.parse``, from now on."""
        control = control if isinstance(control, Control) else Control.parse(control)
        if control.name in ('averaged', 'shuffled') and getattr(self.router, 'per_view', False):
            raise ValueError(f'control {str(control)!r} moves weights among queries, but this router (per_view=True) '
                             'gives them for views, which see other queries')
        self.control = control
        strength = self.control.strength
        self._bias[0].bias_strength = self._own_strength if strength is None else strength

    def forward(self, query_embed, x, x_img, reference_points, img_metas, pc_range, bev_cell_size, layout,
                **evidence):
        """As ``AQRWeightGenerator`` or another router."""
        name = self.control.name
        if name in _WITHOUT_ROUTER:
            projections = project_queries(reference_points, img_metas, pc_range, bev_cell_size, layout)
            lidar = camera = torch.full(query_embed.shape[:2], 0.5, device=query_embed.device)
        else:
            lidar, camera, projections = self.router(query_embed, x, x_img, reference_points, img_metas, pc_range,
                                                     bev_cell_size, layout, **evidence)
        if name == 'averaged':
            lidar, camera = (w.mean(dim=1, keepdim=True).expand_as(w) for w in (lidar, camera))
        elif name == 'shuffled':
            order = torch.stack([torch.randperm(lidar.shape[1], generator=self.generator) for _ in lidar])
            order = order.to(lidar.device)
            lidar, camera = lidar.gather(1, order), camera.gather(1, order)
        elif name == 'oracle':
            targets = routing_targets(RouterEvidence(None, projections, reference_points), img_metas, pc_range,
                                      bev_cell_size)
            weights = torch.where(targets.is_known.unsqueeze(-1), targets.weights, 0.5)
            lidar, camera = weights.unbind(-1)
        return lidar, camera, projections
