"""Learned strengths of the attention bias: heads specialize by modality, so one strength need not fit them all."""
import dataclasses

import torch
from torch import nn


class BiasStrengthPerHead(nn.Module):
    """Multiplies a bias by a learned factor in (0, 2) for every layer and head, 1 at first.

    Args:
        num_layers, num_heads (int): of the decoder's cross-attention.
        bias_clip (float | None): largest size of a bias, also after the factor.

    Attributes:
        logits (nn.Parameter): (layers, heads); the factor is twice their sigmoid.
    """

    def __init__(self, num_layers, num_heads, bias_clip=None):
        super().__init__()
        self.bias_clip = bias_clip
        self.logits = nn.Parameter(torch.zeros(num_layers, num_heads))

    def factors(self):
        """(layers, heads) in (0, 2)."""
        return 2 * self.logits.sigmoid()

    def forward(self, bias):
        """AttentionBias (B, Q, F) -> list with an AttentionBias (B, heads, Q, F) for each layer."""
        values = bias.per_head()  # (B, 1, Q, S)
        scaled = [values * factors.to(values).view(1, -1, 1, 1) for factors in self.factors()]  # (B, heads, Q, S)
        if self.bias_clip is not None:
            scaled = [values.clamp(-self.bias_clip, self.bias_clip) for values in scaled]
        return [dataclasses.replace(bias, values=values) for values in scaled]
