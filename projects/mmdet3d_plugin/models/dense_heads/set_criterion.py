"""Losses of a query-based head: bipartite matching for learned queries, known targets for denoising queries."""
import math

import torch
from mmdet.core import reduce_mean
from torch import nn

from ...core.arguments import check_factor, check_factors
from ...core.bbox.box_encoding import concat_branches, encode_boxes


class SetCriterion(nn.Module):
    """Classification and box losses of every decoder layer, summed over tasks (DETR, DN-DETR, CMT).

    Args:
        loss_cls, loss_bbox (nn.Module): focal and L1 loss.
        assigner (BaseAssigner): matches predictions and ground truth.
        class_names (list[list[str]]): classes per task; labels count through all tasks.
        code_weights (list[float]): weight >= 0 of each box code (10).
        dn_weight (float): factor >= 0 of the denoising losses.
        dn_split (float): share of the noise range that stays foreground; normalizes the denoising class loss.

    Raises:
        ValueError: for weights that are negative or not finite, or not 10 code weights.
    """

    def __init__(self, loss_cls, loss_bbox, assigner, class_names, code_weights, dn_weight, dn_split):
        super().__init__()
        self.loss_cls = loss_cls
        self.loss_bbox = loss_bbox
        self.assigner = assigner
        self.task_sizes = [len(names) for names in class_names]
        self.code_weights = check_factors('code_weights', code_weights, 10)
        self.dn_weight = check_factor('dn_weight', dn_weight)
        self.dn_split = dn_split

    def forward(self, tasks, gt_boxes, gt_labels, denoising):
        """Losses of one batch.

        Args:
            tasks (list[dict]): per task, branches (L, B, Q, channels) and, with denoising, the same names after
                ``dn_``.
            gt_boxes (list[Tensor]): per sample (n, 9), gravity center, m; velocity may be NaN.
            gt_labels (list[Tensor]): per sample (n,).
            denoising (DenoisingBatch | None): what the denoising queries were made of.

        Returns:
            dict[str, Tensor]: ``loss_cls``, ``loss_bbox`` of the last layer, ``d{i}.`` before those of layer i, and the
            same for ``dn_loss_``. Without denoising queries the latter are zero, so that every rank logs the same
            names.
        """
        num_layers = tasks[0]['cls_logits'].shape[0]
        # Every process takes part in the mean, also one that has nothing to denoise.
        num_noised = tasks[0]['cls_logits'].new_tensor([0.0 if denoising is None else len(denoising.boxes)])
        num_noised = reduce_mean(num_noised).clamp(min=1).item()
        targets = [self._task_targets(gt_boxes, gt_labels, task) for task in range(len(tasks))]
        losses = {}
        for layer in range(num_layers):
            prefix = '' if layer == num_layers - 1 else f'd{layer}.'
            matched = [self._matched_losses(codes, logits, *targets[task])
                       for task, (codes, logits) in enumerate(self._predictions(tasks, layer, ''))]
            losses[f'{prefix}loss_cls'], losses[f'{prefix}loss_bbox'] = map(sum, zip(*matched))
            if denoising is None:
                denoised = [(losses[f'{prefix}loss_cls'] * 0, losses[f'{prefix}loss_bbox'] * 0)]
            else:
                denoised = [self._denoising_losses(codes, logits, denoising, task, num_noised)
                            for task, (codes, logits) in enumerate(self._predictions(tasks, layer, 'dn_'))]
            losses[f'{prefix}dn_loss_cls'], losses[f'{prefix}dn_loss_bbox'] = map(sum, zip(*denoised))
        return losses

    @staticmethod
    def _predictions(tasks, layer, prefix):
        """Yield (B, Q, 10) box codes and (B, Q, classes) logits of each task."""
        for task in tasks:
            branches = {name[len(prefix):]: value for name, value in task.items() if name.startswith(prefix)}
            yield concat_branches(branches, layer), branches['cls_logits'][layer]

    def _task_labels(self, labels, task):
        """Global labels -> labels of one task; classes of other tasks become its background."""
        local = labels - sum(self.task_sizes[:task])
        size = self.task_sizes[task]
        return torch.where((local >= 0) & (local < size), local, torch.full_like(local, size))

    def _task_targets(self, gt_boxes, gt_labels, task):
        """Ground truth of one task, per sample."""
        boxes_of_task, labels_of_task = [], []
        for boxes, labels in zip(gt_boxes, gt_labels):
            local = self._task_labels(labels, task)
            mine = local < self.task_sizes[task]
            boxes_of_task.append(boxes[mine])
            labels_of_task.append(local[mine])
        return boxes_of_task, labels_of_task, self.task_sizes[task]

    def _matched_losses(self, codes, logits, gt_boxes, gt_labels, background):
        """Losses of one task in one layer: (B, Q, 10) codes and (B, Q, classes) logits against matched ground truth."""
        labels = torch.full(logits.shape[:2], background, dtype=torch.long, device=logits.device)
        targets = codes.new_zeros(*codes.shape[:2], 9)
        is_matched = torch.zeros_like(labels, dtype=torch.bool)
        for sample in range(len(codes)):
            assigned = self.assigner.assign(codes[sample].detach(), logits[sample].detach(), gt_boxes[sample],
                                            gt_labels[sample]).gt_inds
            matched = assigned > 0
            labels[sample, matched] = gt_labels[sample][assigned[matched] - 1]
            targets[sample, matched] = gt_boxes[sample][assigned[matched] - 1].to(targets)
            is_matched[sample] = matched
        num_pos = is_matched.sum().item()
        avg_factor = max(num_pos + 0.1 * (labels.numel() - num_pos), 1)
        loss_cls = self.loss_cls(logits.flatten(0, 1), labels.flatten(), avg_factor=avg_factor)
        # An empty selection still gives a zero that is part of the graph.
        return loss_cls, self._box_loss(codes[is_matched], targets[is_matched], num_pos)

    def _denoising_losses(self, codes, logits, denoising, task, num_noised):
        """Losses of one task in one layer: (B, P, 10) codes and (B, P, classes) logits against the boxes they were made
        of.
        """
        place = denoising.sample_index, denoising.slot_index
        avg_factor = max(len(denoising.boxes) * math.pi / 6 * self.dn_split**3, 1)
        loss_cls = self.loss_cls(logits[place], self._task_labels(denoising.noisy_labels, task), avg_factor=avg_factor)
        mine = self._task_labels(denoising.labels, task) < self.task_sizes[task]
        loss_bbox = self._box_loss(codes[place][mine], denoising.boxes[mine], num_noised)
        return self.dn_weight * loss_cls, self.dn_weight * loss_bbox

    def _box_loss(self, codes, boxes, avg_factor):
        """Weighted L1 between (N, 10) codes and (N, 9) boxes; boxes without a known velocity are left out."""
        targets = encode_boxes(boxes)
        known = torch.isfinite(targets).all(dim=-1)
        weights = codes.new_tensor(self.code_weights).expand_as(codes)
        return self.loss_bbox(codes[known], targets[known], weights[known], avg_factor=avg_factor)
