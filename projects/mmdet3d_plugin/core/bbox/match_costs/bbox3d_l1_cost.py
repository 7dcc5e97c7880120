import torch
from mmdet.core.bbox.match_costs.builder import MATCH_COST


@MATCH_COST.register_module()
class BBox3DL1Cost:
    """L1 distance between encoded boxes, for bipartite matching (DETR3D).

    Args:
        weight (float): factor of the cost.
    """

    def __init__(self, weight=1.0):
        self.weight = weight

    def __call__(self, bbox_pred, gt_bboxes):
        """(Q, D) predicted and (G, D) ground-truth box codes -> (Q, G) cost."""
        return self.weight * torch.cdist(bbox_pred, gt_bboxes, p=1)
