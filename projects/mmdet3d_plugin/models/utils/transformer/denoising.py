"""Denoising queries (DN-DETR, Li et al. 2022) for 3D boxes, in the form that CMT trains with."""
from dataclasses import dataclass

import torch

from ....core.arguments import check_count, check_factor, is_finite_number
from ..geometry import to_unit_range


@dataclass
class DenoisingBatch:
    """Noised ground truth of one batch, laid out as queries in front of the learned ones.

    With G groups and S = the largest number of boxes of a sample there are P = G * S slots per sample; each of the N
    boxes of the batch appears once per group.

    Attributes:
        reference_points: (B, P, 3) noised centers, fractions of the range; zero in slots without a box.
        occupied: (B, P) bool, slots that hold a box.
        attn_mask: (P + Q, P + Q) bool, True where self-attention is forbidden.
        sample_index, slot_index: (G * N,) place of each noised box.
        boxes: (G * N, 9) clean boxes, gravity center, m.
        labels: (G * N,) clean class indices.
        noisy_labels: (G * N,) the class, or ``num_classes`` (background) where the noise moved the box too far.
    """

    reference_points: torch.Tensor
    occupied: torch.Tensor
    attn_mask: torch.Tensor
    sample_index: torch.Tensor
    slot_index: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    noisy_labels: torch.Tensor

    @property
    def pad_size(self):
        return self.reference_points.shape[1]


class DenoisingQueries:
    """Makes the denoising queries of a batch.

    Args:
        num_groups (int): most groups per batch, 0 for none; fewer where boxes times groups would exceed the number of
            queries.
        noise_scale (float): >= 0, largest shift, as a fraction of (half the box size + ``noise_trans``).
        noise_trans (float): >= 0, added to half the box size, m.
        split (float): > 0; boxes whose shift, as a vector in [-1, 1]^3, is longer than this become background.
        pc_range (list[float]): detection range, m.
        num_classes (int): classes over all tasks.

    Raises:
        ValueError: for arguments outside these ranges; ``scalar`` is the head's name of ``num_groups``.
    """

    def __init__(self, num_groups, noise_scale, noise_trans, split, pc_range, num_classes):
        if not is_finite_number(split) or split <= 0:
            raise ValueError(f'split must be a finite number > 0, got {split!r}')
        self.num_groups = check_count('scalar (number of denoising groups)', num_groups, least=0)
        self.noise_scale = check_factor('noise_scale', noise_scale)
        self.noise_trans = check_factor('noise_trans', noise_trans)
        self.split = split
        self.pc_range = pc_range
        self.num_classes = num_classes

    def sample_noise(self, centers):
        """Uniform noise in [-1, 1] of the shape of ``centers`` (N, 3)."""
        return torch.rand_like(centers) * 2 - 1

    def __call__(self, gt_boxes, gt_labels, num_query, like):
        """Noise the ground truth of a batch.

        Args:
            gt_boxes (list[Tensor]): per sample (n, 9), gravity center, m.
            gt_labels (list[Tensor]): per sample (n,).
            num_query (int): number of learned queries Q.
            like (Tensor): gives device and dtype.

        Returns:
            DenoisingBatch | None: None where there is nothing to denoise: no ground truth, or a sample with more boxes
            than there are queries.
        """
        counts = [len(boxes) for boxes in gt_boxes]
        slots = max(counts)
        groups = min(self.num_groups, num_query // slots) if slots else 0
        if groups == 0:
            return None

        group = torch.arange(groups, device=like.device)
        place = torch.cat([torch.arange(count, device=like.device) for count in counts])
        sample = torch.cat([torch.full((count, ), index, device=like.device) for index, count in enumerate(counts)])
        sample_index = sample.repeat(groups)  # (G * N,), group by group
        slot_index = (group.unsqueeze(1) * slots + place).flatten()
        boxes = torch.cat(gt_boxes).to(like).repeat(groups, 1)
        labels = torch.cat(gt_labels).to(like.device).long().repeat(groups)

        noise = self.sample_noise(boxes[:, :3])
        centers = boxes[:, :3] + noise * (boxes[:, 3:6] / 2 + self.noise_trans) * self.noise_scale
        references = like.new_zeros(len(counts), groups * slots, 3)
        references[sample_index, slot_index] = to_unit_range(centers, self.pc_range).clamp(0, 1)
        occupied = torch.zeros(references.shape[:2], dtype=torch.bool, device=like.device)
        occupied[sample_index, slot_index] = True
        too_far = (noise * bool(self.noise_scale)).norm(dim=1) > self.split
        noisy_labels = torch.where(too_far, torch.full_like(labels, self.num_classes), labels)
        return DenoisingBatch(references, occupied, self._attn_mask(groups, slots, num_query, like.device),
                              sample_index, slot_index, boxes, labels, noisy_labels)

    @staticmethod
    def _attn_mask(groups, slots, num_query, device):
        """Groups see themselves and the learned queries, learned queries see only each other."""
        group_of = torch.arange(groups, device=device).repeat_interleave(slots)
        group_of = torch.cat([group_of, group_of.new_full((num_query, ), groups)])  # learned queries: one more group
        is_learned_key = (group_of == groups).unsqueeze(0)
        return (group_of.unsqueeze(1) != group_of.unsqueeze(0)) & ~is_learned_key
