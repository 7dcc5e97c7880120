import torch
from mmdet.core.bbox import BaseBBoxCoder
from mmdet.core.bbox.builder import BBOX_CODERS

from ...arguments import check_count, check_range, is_finite_number
from ..box_encoding import concat_branches, decode_boxes, encode_boxes


@BBOX_CODERS.register_module()
class MultiTaskBBoxCoder(BaseBBoxCoder):
    """Top-scoring boxes of an NMS-free head whose classes are split into tasks.

    Args:
        pc_range (list[float]): x, y, z minimum and maximum of the detection range, m.
        post_center_range (list[float]): x, y, z minimum and maximum; boxes with a center outside are left out, m.
        max_num (int): number >= 1 of (query, class) pairs kept per sample, by score.
        score_threshold (float | None): in [0, 1), scores must be above it.
        num_classes (int): classes over all tasks, >= 1.
        voxel_size (list[float] | None): LiDAR voxel size, m; kept for the head's BEV geometry.

    Raises:
        ValueError: for arguments outside these ranges.
    """

    def __init__(self, pc_range, post_center_range, max_num=100, score_threshold=None, num_classes=10, voxel_size=None):
        if score_threshold is not None and not (is_finite_number(score_threshold) and 0 <= score_threshold < 1):
            raise ValueError(f'score_threshold must be None or a number in [0, 1), got {score_threshold!r}')
        self.pc_range = check_range('pc_range', pc_range)
        self.post_center_range = check_range('post_center_range', post_center_range)
        self.max_num = check_count('max_num', max_num)
        self.score_threshold = score_threshold
        self.num_classes = check_count('num_classes', num_classes)
        self.voxel_size = voxel_size

    def encode(self, boxes):
        """See :func:`encode_boxes`."""
        return encode_boxes(boxes)

    def decode(self, preds_dicts):
        """Boxes of the last decoder layer.

        Args:
            preds_dicts (Sequence[list[dict]]): per task, level 0: center (L, B, Q, 2), height (L, B, Q, 1),
                dim (L, B, Q, 3), rot (L, B, Q, 2), vel (L, B, Q, 2), cls_logits (L, B, Q, classes of the task).

        Returns:
            list[dict]: per sample ``bboxes`` (N, 9) with gravity center, ``scores`` (N,), ``labels`` (N,),
            N <= max_num.

        Raises:
            ValueError: if the tasks' classes do not add up to ``num_classes``.
        """
        tasks = [task[0] for task in preds_dicts]
        codes = torch.stack([concat_branches(task, layer=-1) for task in tasks], dim=1)  # (B, T, Q, 10)
        logits = [task['cls_logits'][-1] for task in tasks]
        task_of_class = torch.cat([torch.full((logit.shape[-1], ), index) for index, logit in enumerate(logits)])
        if len(task_of_class) != self.num_classes:
            raise ValueError(f'num_classes is {self.num_classes}, but the task heads predict {len(task_of_class)} '
                             'classes')
        scores = torch.cat(logits, dim=-1).sigmoid()  # (B, Q, C)
        task_of_class = task_of_class.to(scores.device)
        return [self._decode_single(*sample, task_of_class) for sample in zip(scores, codes)]

    def _decode_single(self, scores, codes, task_of_class):
        """(Q, C) scores and (T, Q, 10) codes of one sample -> dict of its boxes."""
        top_scores, flat = scores.flatten().topk(min(self.max_num, scores.numel()))
        queries, labels = flat.div(self.num_classes, rounding_mode='floor'), flat % self.num_classes
        boxes = decode_boxes(codes[task_of_class[labels], queries])  # (N, 9)
        limits = boxes.new_tensor(self.post_center_range)
        keep = ((boxes[:, :3] >= limits[:3]) & (boxes[:, :3] <= limits[3:])).all(dim=1)
        if self.score_threshold is not None:
            keep &= top_scores > self.score_threshold
        return dict(bboxes=boxes[keep], scores=top_scores[keep], labels=labels[keep])
