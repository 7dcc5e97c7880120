import torch
from mmdet.core.bbox.assigners import AssignResult, BaseAssigner
from mmdet.core.bbox.builder import BBOX_ASSIGNERS
from mmdet.core.bbox.match_costs import build_match_cost
from scipy.optimize import linear_sum_assignment

from ..box_encoding import encode_boxes

# Velocity does not take part in matching: it is unknown (NaN) for some ground truth.
_NUM_MATCHED_CODES = 8


@BBOX_ASSIGNERS.register_module()
class HungarianAssigner3D(BaseAssigner):
    """One-to-one matching of predictions and ground truth with the least total cost (DETR, DETR3D).

    Args:
        cls_cost (dict): config of the classification cost (mmdet MATCH_COST).
        reg_cost (dict): config of the cost between box codes.
        iou_cost (dict): stated by published configs with weight 0; no other weight is possible.
        pc_range (list[float] | None): stated by published configs; codes are metric, so it is not needed.
        code_weights (list[float] | None): factor per box code (10), applied to both sides before the regression cost.

    Raises:
        ValueError: for an ``iou_cost`` whose weight is not 0.
    """

    def __init__(self, cls_cost, reg_cost, iou_cost=None, pc_range=None, code_weights=None):
        if iou_cost is not None and iou_cost.get('weight', 1.0) != 0:
            raise ValueError(f'iou_cost: 3D IoU does not take part in the matching of CMT; got {iou_cost}, '
                             'allowed: None or weight 0')
        self.cls_cost = build_match_cost(cls_cost)
        self.reg_cost = build_match_cost(reg_cost)
        self.pc_range = pc_range
        self.code_weights = code_weights

    def assign(self, bbox_pred, cls_pred, gt_bboxes, gt_labels, gt_bboxes_ignore=None):
        """Match one sample.

        Args:
            bbox_pred (Tensor): (Q, 10) predicted box codes, see :func:`encode_boxes`.
            cls_pred (Tensor): (Q, num_classes) logits.
            gt_bboxes (Tensor): (G, 9) metric boxes with gravity center.
            gt_labels (Tensor): (G,) class indices.
            gt_bboxes_ignore: must be None.

        Returns:
            AssignResult: per query 0 (background) or the 1-based index of its ground truth.

        Raises:
            ValueError: if ``gt_bboxes_ignore`` is given or a cost is not finite (diverged predictions).
        """
        if gt_bboxes_ignore is not None:
            raise ValueError('gt_bboxes_ignore: ignored boxes are not supported, only None is allowed')
        num_query, num_gt = len(bbox_pred), len(gt_bboxes)
        assigned = bbox_pred.new_zeros(num_query, dtype=torch.long)
        labels = bbox_pred.new_full((num_query, ), -1, dtype=torch.long)
        if num_gt and num_query:
            rows, cols = linear_sum_assignment(self._cost(bbox_pred, cls_pred, gt_bboxes, gt_labels))
            rows, cols = torch.as_tensor(rows).to(assigned.device), torch.as_tensor(cols).to(assigned.device)
            assigned[rows] = cols + 1
            labels[rows] = gt_labels[cols]
        return AssignResult(num_gt, assigned, None, labels=labels)

    @torch.no_grad()
    def _cost(self, bbox_pred, cls_pred, gt_bboxes, gt_labels):
        """(Q, G) total cost as a numpy array."""
        gt_codes = encode_boxes(gt_bboxes)
        if self.code_weights is not None:
            weights = bbox_pred.new_tensor(self.code_weights)
            bbox_pred, gt_codes = bbox_pred * weights, gt_codes * weights
        cost = self.cls_cost(cls_pred, gt_labels)
        cost = cost + self.reg_cost(bbox_pred[:, :_NUM_MATCHED_CODES], gt_codes[:, :_NUM_MATCHED_CODES])
        if not torch.isfinite(cost).all():
            raise ValueError('matching cost is not finite: predictions have diverged or a ground-truth box has a size '
                             '<= 0')
        return cost.cpu().numpy()
