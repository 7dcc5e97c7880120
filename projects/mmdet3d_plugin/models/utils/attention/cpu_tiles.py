"""Exact biased attention without a (Q, F) bias: flash attention per tile of keys, merged by log-sum-exp
(docs/design.md, "Exact fused attention").

Softmax over all keys is the mixture of softmaxes over tiles of keys, weighted by their log-sum-exps. A bias that is
constant on a tile only shifts the tile's log-sum-exp, so the kernel never sees it. A windowed bias touches few (query,
tile) pairs; these alone get a mask, shared by all heads. Given the merged output and log-sum-exp, the flash backward of
every tile is exact. All shifts and masks are less each query's largest bias, so that strong ones cost no digits.
"""
import math
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import Optional

import torch
from torch.autograd.function import once_differentiable

from .key_chunks import attend_in_chunks

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Keys per tile of a windowed segment: smaller tiles mean less masked work and more kernel calls.
TILE_KEYS = 2048
_PLANS = weakref.WeakKeyDictionary()


def obstacle(bias, device):
    """What keeps :func:`tiled_attention` from serving a bias, in words, or None.

    Args:
        bias (AttentionBias): to apply; any will do.
        device (torch.device): of queries and keys.
    """
    return None if device.type == 'cpu' else f'a device other than the CPU, here {device.type}'


def tiled_attention(query, key, value, bias, tile_keys=TILE_KEYS):
    """Biased attention by PyTorch's flash kernels for CPU.

    Args:
        query, key, value, bias: see :func:`.backends.fused_attention`.
        tile_keys (int): keys per tile of a windowed segment, at least; a tile has whole rows of the map.

    Returns:
        Tensor: (B, heads, Q, d).
    """
    return _TiledAttention.apply(query, key, value, bias.values, bias, tile_keys)


def chunked_attention(query, keys_of, bias):
    """:func:`tiled_attention` whose keys are made when they are read, a few at a time; without gradients.

    Args:
        query (Tensor): (B, heads, Q, d).
        keys_of (Callable): slice of samples, slice of keys -> key and value (b, heads, K, d) of these.
        bias (AttentionBias): (B, Q, F) or (B, heads, Q, F).

    Returns:
        Tensor: (B, heads, Q, d); zeros where there are no queries or no keys.
    """
    if not query.numel() or not bias.num_tokens:
        return query * 0
    merged, keys_of = _Merged(query), _remembering_last(keys_of)
    for tile in _plan(bias, merged.lse.dtype, TILE_KEYS):
        merged.add(tile, *attend_in_chunks(tile.pick(query), partial(keys_of, tile.batch), tile.keys, tile.mask))
    return merged.out.to(query.dtype)


def _remembering_last(make):
    """``make``, which is not called again for what it was called for last: two tiles may have the same keys."""
    last = []

    def remembered(*arguments):
        if not last or last[0] != arguments:
            last[:] = arguments, make(*arguments)
        return last[1]

    return remembered


@dataclass(frozen=True)
class _Tile:
    """Attention of some queries of one or all samples to a run of keys.

    Attributes:
        batch: slice of samples.
        queries: (N,) indices, None for all.
        keys: slice of keys, never empty: the kernel divides by their number.
        segment: which of the bias' values applies.
        has_value: the shift contains that value; without, a tile without a mask is out of the windows' reach.
        is_first: first tile on these samples and keys.
        shift: (b, heads or 1, N) added to every score, None with a mask.
        mask: (b, heads or 1, N, K) added to the scores, None with a shift.
        rows: of the map that the keys are, beside a mask.
        made: what is made when it is needed; not the bias, which must not live as long as its tiles.
    """

    batch: slice
    queries: Optional[torch.Tensor]
    keys: slice
    segment: int
    has_value: bool = False
    is_first: bool = True
    shift: Optional[torch.Tensor] = None
    mask: Optional[torch.Tensor] = None
    rows: Optional[range] = None
    made: list = field(default_factory=list)

    def cone_mask(self, bias):
        """Mask of the attention whose weights are those of the tile times the bias' cone, made once for all layers."""
        if not self.made:
            cone = bias.cone(self.segment, (self.batch.start, self.queries), self.rows, self.mask.dtype)
            self.made.append(self.mask + cone.log())
        return self.made[0]

    def pick(self, x):
        """The tile's samples and queries of (B, heads, Q, ...)."""
        x = x[self.batch]
        return x if self.queries is None else x.index_select(2, self.queries)

    def put(self, x, part):
        """Overwrite them."""
        if self.queries is None:
            x[self.batch] = part
        else:
            x[self.batch].index_copy_(2, self.queries, part)

    def add(self, x, part):
        """Add to them."""
        if self.queries is None:
            x[self.batch] += part
        else:
            x[self.batch].index_add_(2, self.queries, part.to(x.dtype))

    def add_to_keys(self, x, part):
        """Add to the tile's samples and keys of (B, heads, F, d), which nobody has written before the first tile."""
        if self.is_first:
            x[self.batch, :, self.keys] = part
        else:
            x[self.batch, :, self.keys] += part


def _plan(bias, dtype, tile_keys):
    """Tiles of a bias, made once per forward pass and shared by all layers; again if its numbers were changed in place.
    """
    # Compared by copies: versions of tensors do not tell in inference mode, nor what was written through ``.data``.
    numbers = [part.detach() for part in (bias.values, bias.cells, bias.seen) if part is not None]
    state, copies, plan = _PLANS.get(bias, (None, (), None))
    if state != (dtype, tile_keys) or not all(map(torch.equal, numbers, copies)):
        with torch.no_grad():
            values, top = bias.per_head().detach().double(), bias.top()
            plan = list(_window_tiles(bias, values, top, dtype, tile_keys) if bias.is_local else
                        _whole_tiles(bias, values - top.unsqueeze(-1), dtype))
        _PLANS[bias] = (dtype, tile_keys), [part.clone() for part in numbers], plan
    return plan


def _whole_tiles(bias, values, dtype):
    """One tile per segment: its bias is a shift. Queries that a bias of -inf keeps from a segment are left out."""
    for segment, keys in enumerate(bias.segments):
        if keys.stop == keys.start:
            continue
        shift = _narrow(values[..., segment], dtype)  # (B, heads or 1, Q)
        attends = (values[..., segment] > -math.inf).any(dim=1)  # (B, Q)
        if attends.all():
            yield _Tile(slice(None), None, keys, segment, True, shift=shift)
            continue
        for sample, own in enumerate(attends):
            queries, batch = own.nonzero().flatten(), slice(sample, sample + 1)
            if len(queries):
                yield _Tile(batch, queries, keys, segment, True, shift=shift[batch][..., queries])


def _cover_all(tiles, key):
    """Whether every sample's keys (B, heads, F, d) are in a tile."""
    batch, _, num_keys, _ = key.shape
    return sum((tile.keys.stop - tile.keys.start) * len(range(batch)[tile.batch])
               for tile in tiles if tile.is_first) == batch * num_keys


def _narrow(shift, dtype):
    """Float64 -> ``dtype``; a bias that would overflow has no weight with its lowest number either."""
    return shift.clamp(min=torch.finfo(dtype).min / 4).to(dtype)


def _window_tiles(bias, values, largest, dtype, tile_keys):
    """Stripes of rows; the queries whose window reaches into a stripe are masked there, the others are not."""
    for sample in range(values.shape[0]):
        batch = slice(sample, sample + 1)
        for segment, (keys, (height, width)) in enumerate(zip(bias.segments, bias.shapes)):
            if bias.windows[segment] is None:
                if keys.stop > keys.start:
                    shift = values[batch, ..., segment] - largest[batch]
                    yield _Tile(batch, None, keys, segment, True, shift=_narrow(shift, dtype))
                continue
            stripe = max(1, tile_keys // max(width, 1))
            reach = bias.windows[segment] // 2
            row, seen = bias.cells[sample, :, segment, 0], bias.seen[sample, :, segment]
            for top in range(0, height if width else 0, stripe):
                rows = range(top, min(top + stripe, height))
                run = slice(keys.start + rows.start * width, keys.start + rows.stop * width)
                reached = seen & (row >= rows.start - reach) & (row < rows.stop + reach)
                inside, outside = reached.nonzero().flatten(), (~reached).nonzero().flatten()
                if len(inside):
                    mask = _window_mask(bias, segment, (sample, inside), rows, values[batch, :, inside, segment, None],
                                        largest[batch, :, inside, None], dtype)
                    yield _Tile(batch, inside, run, segment, mask=mask, rows=rows)
                if len(outside):
                    yield _Tile(batch, outside if len(inside) else None, run, segment, is_first=not len(inside),
                                shift=_narrow(-largest[batch][..., outside], dtype))


def _window_mask(bias, segment, query, rows, values, largest, dtype):
    """(1, heads or 1, N, K) bias of N queries on rows of a map, less the queries' largest.

    Only the windows' cells are computed in float64, with ``values`` and ``largest`` (1, heads or 1, N, 1).
    """
    place, factors = bias.window_cells(segment, query, rows, values.dtype)  # (N, window ** 2), (window ** 2,)
    inside = _narrow(values * factors - largest, dtype)  # (1, heads or 1, N, window ** 2)
    num_keys = len(rows) * bias.shapes[segment][1]
    mask = _narrow(-largest, dtype).expand(*largest.shape[:-1], num_keys + 1).contiguous()
    return mask.scatter_(-1, place.expand(inside.shape), inside)[..., :-1]


class _Merged:
    """What several tiles give together; statistics in float32 or wider.

    Attributes:
        out: (B, heads, Q, d) of the tiles so far.
        lse: (B, heads, Q) log-sum-exp of their scores.
    """

    def __init__(self, query):
        wide = torch.promote_types(query.dtype, torch.float32)
        self.out = torch.zeros_like(query, dtype=wide)
        self.lse = query.new_full(query.shape[:-1], -math.inf, dtype=wide)

    def add(self, tile, out, lse):
        """Add a tile's own output and log-sum-exp, and return the latter with the tile's shift."""
        if tile.shift is not None:
            lse = lse + tile.shift
        before = tile.pick(self.lse)
        after = torch.logaddexp(before, lse.to(self.lse.dtype))
        keep, take = (before - after).exp().unsqueeze(-1), (lse - after).exp().unsqueeze(-1)
        tile.put(self.out, tile.pick(self.out) * keep + out * take)
        tile.put(self.lse, after)
        return lse


class _TiledAttention(torch.autograd.Function):
    """Flash attention per tile on CPU; statistics in float32 or wider."""

    @staticmethod
    def forward(ctx, query, key, value, values, bias, tile_keys):
        scale = 1 / math.sqrt(query.shape[-1])
        merged, parts = _Merged(query), []
        tiles = _plan(bias, merged.lse.dtype, tile_keys)
        for tile in tiles:
            out, lse = _flash(tile.pick(query), key[tile.batch, :, tile.keys], value[tile.batch, :, tile.keys], 0.0,
                              False, attn_mask=tile.mask, scale=scale)[:2]
            lse = merged.add(tile, out, lse)
            if tile.has_value:
                parts += [out, lse]
        out = merged.out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, merged.lse, *parts)
        ctx.tiles, ctx.bias, ctx.scale = tiles, bias, scale
        ctx.values_shape, ctx.values_dtype = values.shape, values.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        query, key, value, out, lse, *parts = ctx.saved_tensors
        wide = lse.dtype
        grad_query = torch.zeros_like(query, dtype=wide)
        # Keys that no query attends to have no tile.
        new = torch.empty_like if _cover_all(ctx.tiles, key) else torch.zeros_like
        grad_key, grad_value = (new(x, dtype=wide) for x in (key, value))
        heads = ctx.values_shape[1] if len(ctx.values_shape) == 4 else 1
        grad_values = lse.new_zeros(query.shape[0], heads, *ctx.values_shape[-2:])
        grad_out = grad_out.contiguous()
        baseline = (grad_out.to(wide) * out.to(wide)).sum(-1)  # (B, heads, Q)
        for tile in ctx.tiles:
            inputs = tile.pick(query), key[tile.batch, :, tile.keys], value[tile.batch, :, tile.keys]
            tile_grad, tile_lse = tile.pick(grad_out), tile.pick(lse)
            # The kernel recomputes exp(score + mask - lse): the shift, which it does not know, goes to the lse.
            kernel_lse = tile_lse if tile.shift is None else (tile_lse - tile.shift).to(wide)
            grads = _flash_backward(tile_grad, *inputs, tile.pick(out), kernel_lse, 0.0, False, attn_mask=tile.mask,
                                    scale=ctx.scale)
            tile.add(grad_query, grads[0])
            tile.add_to_keys(grad_key, grads[1])
            tile.add_to_keys(grad_value, grads[2])
            if not ctx.needs_input_grad[3] or not (tile.has_value or tile.mask is not None):
                continue
            if tile.has_value:
                part_out, part_lse, *parts = parts
            else:
                # d value = sum_k cone_k p_k (dO.v_k - dO.out): an attention whose weights are cone_k p_k. No row is
                # masked entirely (the kernel would return lse 0): a window that reaches a stripe has its center's
                # column there.
                part_out, part_lse = _flash(*inputs, 0.0, False, attn_mask=tile.cone_mask(ctx.bias), scale=ctx.scale)
            weight = (part_lse - tile_lse).exp()
            difference = weight * ((tile_grad.to(wide) * part_out).sum(-1) - tile.pick(baseline))  # (b, heads, N)
            tile.add(grad_values[..., tile.segment], difference if heads > 1 else difference.sum(1, keepdim=True))
        grads = [grad.to(x.dtype) for grad, x in zip((grad_query, grad_key, grad_value), (query, key, value))]
        return *grads, grad_values.view(ctx.values_shape).to(ctx.values_dtype), None, None
