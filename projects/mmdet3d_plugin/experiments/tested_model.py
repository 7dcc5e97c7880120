"""A detector in a test: its detections with several controls, on features that are extracted once."""
from collections import defaultdict

import torch
from mmdet3d.core import bbox3d2result

from ..apis.distributed import default_device, on_default_device
from ..models.dense_heads.cmt_head import CmtHead
from ..models.utils.aqr.supervision import routing_targets
from ..models.utils.transformer.attention_recorder import AttentionRecorder
from .router_controls import ControlledRouter

_ATTENTION_QUERIES = 64


class Collected:
    """What one control gives over all samples.

    Attributes:
        detections: list of the detector's results, one a sample.
        attention: list of (B, L) shares of LiDAR in the cross-attention of each decoder layer, mean over queries.
        queries: name -> list of arrays (B, Q): the router's weights and what was lost at the queries' places.
    """

    def __init__(self):
        self.detections, self.attention, self.queries = [], [], defaultdict(list)

    def add_routing(self, routing, targets):
        """Keep a batch's RoutingRecord and RoutingTargets."""
        for name, value in dict(lidar_weights=routing.lidar_weights, camera_weights=routing.camera_weights,
                                lidar_lost=targets.lidar_lost, cameras_lost=targets.cameras_lost,
                                is_known=targets.is_known).items():
            self.queries[name].append(value.cpu().numpy())


class TestedModel:
    """Detections of any detector that takes points, img and img_metas; of CMT also what its router and attention do.

    Args:
        model (nn.Module): in evaluation mode.
    """
    __test__ = False  # no test of pytest's

    def __init__(self, model):
        self.model = model.to(default_device())
        head = getattr(model, 'pts_bbox_head', None)
        self.head = head if isinstance(head, CmtHead) else None
        self.router = ControlledRouter(head) if self.head is not None and head.enable_aqr else None

    @torch.no_grad()
    def detect(self, batch, collected):
        """Test one batch with every control.

        Args:
            batch (dict): from the loader of a test dataset.
            collected (dict[Control, Collected]): by control; the batch's results are added.

        Returns:
            list[dict]: the img_metas of its samples.

        Raises:
            ValueError: the detector returns no boxes.
            RuntimeError: a detector other than CMT does not bear what a failure left, such as no points.
        """
        batch = on_default_device(batch)
        metas = batch['img_metas'][0]
        if self.head is None:
            results = [_as_pts_bbox(result) for result in self._results(batch, metas)]
            for kept in collected.values():
                kept.detections += results
            return metas
        points, img = (batch[name][0] if name in batch else None for name in ('points', 'img'))
        img_feats, pts_feats = self.model.extract_feat(points, img, metas)
        blank_feats = self.model.blank_features(points, img, metas)
        for control, kept in collected.items():
            if self.router is not None:
                self.router.select(control)
            self._decode(kept, pts_feats, img_feats, metas, blank_feats)
        return metas

    def _results(self, batch, metas):
        """What any detector returns for a batch."""
        try:
            return self.model(return_loss=False, rescale=True, **batch)
        except Exception as error:
            counts = [len(cloud) for cloud in batch['points'][0]] if 'points' in batch else 'no'
            raise RuntimeError(f'{type(self.model).__name__} failed on samples {[meta["sample_idx"] for meta in metas]}'
                               f' with {counts} points: {type(error).__name__}: {error}') from error

    def _decode(self, kept, pts_feats, img_feats, metas, blank_feats):
        head = self.head
        with AttentionRecorder(head, num_queries=min(_ATTENTION_QUERIES, head.num_query), seed=0) as recorder:
            outs = head(pts_feats, img_feats, metas, blank_feats)
        kept.detections += [dict(pts_bbox=bbox3d2result(*result)) for result in head.get_bboxes(outs, metas)]
        kept.attention.append(torch.stack([
            layer.mass[..., 0].mean(dim=1) for layer in recorder.statistics], dim=1).cpu())  # (B, L)
        routing = outs[0][0].get('routing')
        if routing is not None:
            kept.add_routing(routing, routing_targets(routing, metas, head.pc_range, head.bev_cell_size))


def _as_pts_bbox(result):
    boxes = result.get('pts_bbox', result) if isinstance(result, dict) else {}
    if not {'boxes_3d', 'scores_3d', 'labels_3d'} <= set(boxes):
        found = sorted(result) if isinstance(result, dict) else type(result).__name__
        raise ValueError('the detector must return boxes_3d, scores_3d and labels_3d for each sample, as a dict or '
                         f'under pts_bbox; got {found}')
    return dict(pts_bbox={name: boxes[name] for name in ('boxes_3d', 'scores_3d', 'labels_3d')})
