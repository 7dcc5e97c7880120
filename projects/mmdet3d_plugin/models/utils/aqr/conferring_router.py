"""A router that compares what each sensor alone makes the decoder see, and lets the sensors confer about the fault."""
import torch
from mmcv.runner import BaseModule
from mmdet.models.utils.builder import TRANSFORMER
from torch import nn

from ....core.arguments import check_count, check_flag
from ..geometry import full_precision
from .query_projection import project_queries

_SENSORS = 2  # LiDAR and cameras
_LEAST_VARIANCE = 1e-3  # see _normal


@TRANSFORMER.register_module()
class ConferringRouter(BaseModule):
    """Weighs sensors by two looks per query and a conference of the sensors (docs/design.md, "Looks and conferring").

    Where a sensor lies, nothing at one place in it is wrong: the lie shows by comparison with the other sensor, and who
    is at fault only by comparing places and views. Each query's evidence is its two states, their product and the best
    class logit of each. The mean evidence of all queries is the LiDAR token, that of the queries which a view sees the
    view's token; these confer in a small transformer encoder. A query's verdict comes from its own evidence, the LiDAR
    token and the mean of the tokens of the views that see it. Its last layer starts at zero: weights of exactly 0.5,
    neutral.

    What it never saw it does not judge: in a sample whose mean states lie farther from those of training than nearly
    all of them do, all weights are 0.5. The plug-in training learns what is familiar (:meth:`learn_familiar`); for a
    router that was trained with its detector everything is.

    Args:
        embed_dims (int): channels C of the queries.
        hidden_dims (int): channels of evidence and tokens, divisible by ``num_heads``.
        num_heads, num_layers (int): of the encoder; without layers nobody confers, and each query judges by its own
            evidence alone.
        detach (bool): no gradient flows from the verdict into the decoder.
        per_view (bool): a verdict on each view that sees a query, from that view's token in place of the mean; a camera
            weight for each; needs the head's ``aqr_per_view=True``. Where one view sees a query it is the same.

    Attributes:
        needs_looks (bool): True: a head has to give ``looks``.

    Raises:
        TypeError: for flags that are not True or False.
        ValueError: for counts out of range, ``hidden_dims`` not divisible by ``num_heads``, or verdicts per view where
            nobody confers.
    """

    needs_looks = True

    def __init__(self, embed_dims, hidden_dims=128, num_heads=4, num_layers=2, detach=True, per_view=False):
        super().__init__()
        check_flag('aqr_router.detach', detach)
        check_flag('aqr_router.per_view', per_view)
        check_count('aqr_router.hidden_dims', hidden_dims)
        check_count('aqr_router.num_heads', num_heads)
        check_count('aqr_router.num_layers', num_layers, least=0)
        if hidden_dims % num_heads:
            raise ValueError(f'hidden_dims must be divisible by num_heads, got {hidden_dims} and {num_heads}')
        if per_view and not num_layers:
            raise ValueError('per_view=True judges views by their tokens, which num_layers=0 leaves out')
        self.detach = detach
        self.per_view = per_view
        in_dims = 3 * embed_dims + _SENSORS
        self.evidence = nn.Sequential(
            nn.LayerNorm(in_dims), nn.Linear(in_dims, hidden_dims), nn.ReLU(), nn.Linear(hidden_dims, hidden_dims))
        self.kind = self.confer = None
        if num_layers:
            self._build_conference(hidden_dims, num_heads, num_layers)
        self.verdict = nn.Sequential(
            nn.LayerNorm(3 * hidden_dims), nn.Linear(3 * hidden_dims, hidden_dims), nn.ReLU(),
            nn.Linear(hidden_dims, _SENSORS))
        states = _SENSORS * embed_dims
        self.register_buffer('familiar_mean', torch.zeros(states))
        self.register_buffer('familiar_precision', torch.zeros(states, states))
        self.register_buffer('familiar_limit', torch.tensor(0.0))  # 0: none was learned, nothing is unfamiliar
        self._start_neutral()

    def _build_conference(self, hidden_dims, num_heads, num_layers):
        self.kind = nn.Parameter(torch.zeros(_SENSORS, hidden_dims))  # tells the LiDAR token from those of views
        layer = nn.TransformerEncoderLayer(hidden_dims, num_heads, 2 * hidden_dims, dropout=0.0, batch_first=True,
                                           norm_first=True)
        self.confer = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)

    def init_weights(self):
        """Neutral start, whatever a parent's ``init_cfg`` did before (docs/design.md, "Contracts")."""
        super().init_weights()
        self._start_neutral()

    def _start_neutral(self):
        if self.kind is not None:
            nn.init.normal_(self.kind, std=0.02)
        nn.init.zeros_(self.verdict[-1].weight)
        nn.init.zeros_(self.verdict[-1].bias)
        nn.init.zeros_(self.familiar_mean)
        nn.init.zeros_(self.familiar_precision)
        nn.init.zeros_(self.familiar_limit)

    def forward(self, query_embed, x, x_img, reference_points, img_metas, pc_range, bev_cell_size, layout, looks,
                has_say):
        """Route queries.

        Args:
            looks (Looks): of the queries.
            has_say (Tensor): (B, Q) bool, the query counts in the sensors' tokens; others are judged alone.
            query_embed, x, x_img, reference_points, img_metas, pc_range, bev_cell_size, layout: as
                ``AQRWeightGenerator``.

        Returns:
            tuple[Tensor, Tensor, QueryProjections]: LiDAR weights (B, Q) and camera weights (B, Q), with ``per_view``
            (B, Q, V), in [0, 1], float32, and the projections.
        """
        projections = project_queries(reference_points, img_metas, pc_range, bev_cell_size, layout)
        weights = self.weigh(looks, projections.pts_pers_valid, has_say)
        return weights[..., 0], weights[..., 1:] if self.per_view else weights[..., 1], projections

    def weigh(self, looks, seen, has_say):
        """LiDAR and camera weight (B, Q, 2), with ``per_view`` (B, Q, 1 + V), in [0, 1], float32; arguments as in
        :meth:`judge`.
        """
        weights = self.judge(looks, seen, has_say).float().sigmoid()
        unfamiliar = (self.distance(looks, has_say) > self.familiar_limit) & (self.familiar_limit > 0)  # (B,)
        return torch.where(unfamiliar[:, None, None], 0.5, weights)

    def judge(self, looks, seen, has_say):
        """Logits (B, Q, 2) of the LiDAR and the camera weight; with ``per_view`` (B, Q, 1 + V), of LiDAR's and each
        view's, those of views that do not see a query without a meaning.

        Args:
            looks (Looks): of the queries.
            seen (Tensor): (B, Q, V) bool, the view sees the query.
            has_say (Tensor): (B, Q) bool, see :meth:`forward`.
        """
        evidence = self._evidence(looks)  # (B, Q, H)
        if self.confer is None:
            nobody = torch.zeros_like(evidence)
            return self.verdict(torch.cat([evidence, nobody, nobody], dim=-1))
        seen = seen.to(evidence.dtype)  # (B, Q, V)
        say = has_say.to(evidence).unsqueeze(-1)  # (B, Q, 1)
        tokens = _masked_mean(evidence, torch.cat([say, say * seen], dim=-1))  # (B, 1 + V, H)
        kind = self.kind[[0] + [1] * seen.shape[-1]]  # (1 + V, H)
        tokens = self.confer(tokens + kind)
        of_views = _masked_mean(tokens[:, 1:], seen.transpose(1, 2))  # (B, Q, H)
        own = torch.cat([evidence, tokens[:, :1].expand_as(evidence)], dim=-1)  # (B, Q, 2 H)
        verdict = self.verdict(torch.cat([own, of_views], dim=-1))
        if not self.per_view:
            return verdict
        of_view = [self.verdict(torch.cat([own, token.unsqueeze(1).expand_as(evidence)], dim=-1))[..., 1]
                   for token in tokens[:, 1:].unbind(1)]
        return torch.stack([verdict[..., 0], *of_view], dim=-1)

    @full_precision
    @torch.no_grad()
    def distance(self, looks, has_say):
        """Mahalanobis distance (B,) of samples' mean states to those of training; 0 before any were learned."""
        return _mahalanobis(mean_states(looks, has_say), self.familiar_mean, self.familiar_precision)

    @torch.no_grad()
    def learn_familiar(self, states, scenes, share=0.97, folds=10):
        """Take samples as what is familiar from now on.

        How far new scenes lie from known ones is found by leaving scenes out (cross validation): samples of one scene
        are alike, and would make the limit too narrow for the next scene.

        Args:
            states (Tensor): (N, 2 C) :func:`mean_states` of samples.
            scenes (Tensor): (N,) int, which scene each comes from.
            share (float): of samples of new scenes that count as familiar, in (0, 1].
            folds (int): groups of scenes, each left out once; samples of a single scene measure themselves.

        Raises:
            ValueError: for a share out of range, or fewer than two samples.
        """
        if not 0 < share <= 1 or len(states) < 2:
            raise ValueError(f'learn_familiar needs a share in (0, 1] and at least 2 samples, got {share} and '
                             f'{len(states)}')
        states = states.double()
        fold = torch.unique(scenes, return_inverse=True)[1] % folds  # (N,)
        distances = []
        for left_out in (fold == number for number in fold.unique()):
            known = ~left_out if int((~left_out).sum()) > 1 else left_out
            distances.append(_mahalanobis(states[left_out], *_normal(states[known])))
        mean, precision = _normal(states)
        self.familiar_mean.copy_(mean)
        self.familiar_precision.copy_(precision)
        self.familiar_limit.copy_(torch.quantile(torch.cat(distances), share))

    def _evidence(self, looks):
        lidar, camera = looks.lidar_states, looks.camera_states
        best = [logits.amax(dim=-1, keepdim=True) for logits in (looks.lidar_logits, looks.camera_logits)]
        evidence = torch.cat([lidar, camera, lidar * camera, *best], dim=-1)
        evidence = evidence.detach() if self.detach else evidence
        return self.evidence(evidence.to(self.familiar_mean))


def _normal(states):
    """Mean and inverse covariance of states (N, D). Every direction gets some of the mean variance, since few samples
    leave directions without any.
    """
    covariance = torch.cov(states.T)
    covariance += _LEAST_VARIANCE * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    return states.mean(dim=0), torch.linalg.inv(covariance)


def _mahalanobis(states, mean, precision):
    """Distances (N,) of states (N, D)."""
    away = states - mean
    return ((away @ precision) * away).sum(dim=-1).clamp(min=0).sqrt()


def mean_states(looks, has_say):
    """(B, 2 C) float32, the states of both looks, mean over the queries that have a say (B, Q)."""
    states = torch.cat([looks.lidar_states, looks.camera_states], dim=-1).float()
    return _masked_mean(states, has_say.float().unsqueeze(-1))[:, 0]


def _masked_mean(values, members):
    """Means of values (B, N, H) over groups with members (B, N, G) in {0, 1}: (B, G, H), zeros for empty groups."""
    total = members.transpose(1, 2) @ values
    return total / members.sum(dim=1).clamp(min=1).unsqueeze(-1)
