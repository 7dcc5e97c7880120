"""One cross-attention with random inputs: without bias, and with each form of the bias by several backends."""
import math

import torch
import torch.nn.functional as F

from benchmarks.harness import Comparison
from projects.mmdet3d_plugin.models.utils.attention.backends import fused_attention
from projects.mmdet3d_plugin.models.utils.attention.channels import channel_attention
from projects.mmdet3d_plugin.models.utils.attention.stand_ins import needed_segments, take_segments, with_stand_ins
from projects.mmdet3d_plugin.models.utils.attention_bias_generator import AttentionBiasGenerator

from .scenes import DIMS, HEADS, attention_inputs, run_without_grad


def build(settings):
    """Compare attentions over the same inputs, whose weights take a gradient as in training."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (x.requires_grad_() for x in attention_inputs(settings, generator))
    weights = torch.rand(2, settings.batch, settings.queries, generator=generator).requires_grad_()
    where = random_projections(settings, generator)
    modes = {'global': AttentionBiasGenerator(), 'per view': AttentionBiasGenerator(per_view=True),
             'local': AttentionBiasGenerator(use_local_bias=True)}
    projections = torch.nn.MultiheadAttention(HEADS * DIMS, HEADS)

    def sketch():
        """The seed's way: a dense bias per head in nn.MultiheadAttention, whose projections are part of it."""
        bias = modes['global'](*weights, **where).repeat_interleave(HEADS, dim=0)  # (B * heads, Q, F)
        flat = [x.transpose(1, 2).flatten(2).transpose(0, 1) for x in (query, key, value)]
        return projections(*flat, attn_mask=bias, need_weights=True)[0]

    candidates = {'plain': lambda: F.scaled_dot_product_attention(query, key, value)}
    for name, mode in modes.items():
        candidates[f'{name} fused'] = lambda mode=mode: fused_attention(query, key, value,
                                                                        mode.compact(*weights, **where))
    candidates['global channels'] = lambda: channel_attention(query, key, value,
                                                              modes['global'].compact(*weights, **where))
    candidates['local dense'] = lambda: F.scaled_dot_product_attention(
        query, key, value, attn_mask=modes['local'](*weights, **where).unsqueeze(1))
    candidates['half on stand-ins'] = _half_on_stand_ins(settings, query, key, value, generator)
    candidates['sketch: dense per head'] = sketch

    grad = torch.randn(settings.batch, HEADS, settings.queries, DIMS, generator=generator)
    grad = grad.transpose(1, 2).contiguous().transpose(1, 2)  # laid out as the output projection leaves it

    def both(candidate):
        out = candidate()
        out.backward(grad if out.shape == grad.shape else torch.ones_like(out))

    return Comparison(candidates, {'forward': run_without_grad, 'forward + backward': both})


def _half_on_stand_ins(settings, query, key, value, generator):
    """Attention of queries, every second one of which leans on LiDAR's stand-ins (further keys) as far as it may."""
    _, *blank = attention_inputs(settings, generator)
    lidar = slice(0, math.prod(settings.scale.bev_shape))
    key, value = (torch.cat([own, other[:, :, lidar]], dim=2).detach().requires_grad_()
                  for own, other in zip((key, value), blank))
    weights = torch.ones(2, settings.batch, settings.queries)
    weights[0, :, ::2] = 0
    weights.requires_grad_()
    generator = AttentionBiasGenerator(bias_strength=1.5, weight_map='log_gate')
    shapes = dict(bev_feature_shape=settings.scale.bev_shape, pers_feature_shape=settings.scale.view_shape)

    def run():
        bias = with_stand_ins(generator.compact(*weights, **shapes))
        return fused_attention(query, key, value, take_segments(bias, needed_segments([bias])))

    return run


def random_projections(settings, generator):
    """Where queries fall on the maps, as arguments of ``AttentionBiasGenerator.compact``: a random BEV cell, a random
    cell (row, col) in each view, and one view that sees the query; one query in seven is in an overlap of two.
    """
    scale, shape = settings.scale, (settings.batch, settings.queries)
    (height, width), (views, h, w) = scale.bev_shape, scale.view_shape
    pts_idx = torch.randint(height * width, shape, generator=generator)
    cells = torch.stack([torch.randint(h, (*shape, views), generator=generator),
                         torch.randint(w, (*shape, views), generator=generator)], dim=-1)  # (B, Q, V, 2)
    first = torch.randint(views, (*shape, 1), generator=generator)
    seen = torch.arange(views) == first  # (B, Q, V)
    seen |= (torch.arange(views) == (first + 1) % views) & (torch.rand(first.shape, generator=generator) < 1 / 7)
    return dict(pts_idx=pts_idx, pts_pers_idx=cells, pts_pers_valid=seen, bev_feature_shape=scale.bev_shape,
                pers_feature_shape=scale.view_shape)
