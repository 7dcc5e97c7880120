"""Biased attention with windows as a score modification of PyTorch's ``flex_attention``.

What the kernel looks up are two small tables: the bias of each query at the cells that its windows hold (``near``) and
at all other keys (``far``). On CUDA ``torch.compile`` makes one fused kernel of it (Triton), without a tensor of
queries times keys. Its backward pass also gives the gradient of ``near``, and autograd leads that to the bias' values.

What flex_attention serves (read in the sources of torch 2.6 and 2.10):

- Gradients of captured tensors since torch 2.6, eager and compiled (pytorch/pytorch pull requests 137526 and 137452). A
  captured tensor that takes one may be indexed once. Compiled, they are added atomically: last digits vary.
- Eager mode makes the table of all scores, on any device, float64 too. So the tests run it on CPU. Compiled for the CPU
  it has no backward pass; CPU tiles serve there.
- Compiled for CUDA, it takes float32, float16 and bfloat16, and heads of at least 16 channels: smaller ones are padded,
  and float64 runs eagerly. ``retain_graph=True`` is refused by torch.compile (donated buffers).

There is no block mask. It skips blocks that forbid all their pairs of query and key, but a bias with windows forbids
none: outside its windows a query attends as it would without them, and -inf beside windows is refused. Nor do the
windows leave blocks in which the lookups could be left out: 128 queries in no spatial order reach 99.8 % of the blocks
of 128 keys at 16384 + 6000 tokens and 95.6 % at 32400 + 24000 (random projections, windows of 5 and 15 cells), though
only 0.8 % and 0.4 % of the pairs. Without windows, a segment at -inf for all queries of a block could be skipped;
:mod:`.channels` serves those biases.
"""
import functools
import importlib.util
import math
import weakref

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import flex_attention

FUSED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SMALLEST_HEAD = 16  # channels that a compiled kernel takes, at least
EVERYWHERE = 2**30  # cells; a window that reaches so far has the whole map
_GEOMETRIES = weakref.WeakKeyDictionary()


def obstacle(bias, device):
    """What keeps :func:`flex_biased_attention` from serving a bias, in words, or None.

    Args:
        bias (AttentionBias): to apply; any will do.
        device (torch.device): of queries and keys.
    """
    if device.type == 'cpu':
        return 'the CPU, where it would make the table of all scores'
    if device.type != 'cuda':
        return f'a device other than CUDA, here {device.type}'
    return _cuda_obstacle(device)


@functools.cache
def _cuda_obstacle(device):
    if importlib.util.find_spec('triton') is None:
        return 'CUDA without Triton, whose kernels it needs'
    capability = torch.cuda.get_device_capability(device)
    if capability < (7, 0):
        return f'a GPU of compute capability {capability}; Triton needs (7, 0)'
    return None


def flex_biased_attention(query, key, value, bias):
    """Biased attention by ``flex_attention``: compiled on CUDA, otherwise eager, which makes the table of all scores.

    Args:
        query, key, value, bias: see :func:`.backends.fused_attention`.

    Returns:
        Tensor: (B, heads, Q, d).
    """
    dims = query.shape[-1]
    # Kernels round head sizes up to powers of two anyway.
    padding = max(SMALLEST_HEAD, 1 << (dims - 1).bit_length()) - dims
    query, key, value = (F.pad(x, (0, padding)) if padding else x for x in (query, key, value))
    attend = _compiled() if query.device.type == 'cuda' and query.dtype in FUSED_DTYPES else flex_attention
    score_mod = score_modification(bias, torch.promote_types(query.dtype, torch.float32))
    return attend(query, key, value, score_mod=score_mod, scale=1 / math.sqrt(dims))[..., :dims]


@functools.cache
def _compiled():
    return torch.compile(flex_attention)


def score_modification(bias, dtype):
    """The function that adds a bias to one score, less the largest bias of the query, for ``flex_attention``.

    Args:
        bias (AttentionBias): any; gradients reach its values.
        dtype (torch.dtype): of the tables, that is, of what is added.

    Returns:
        Callable: (score, sample, head, query, key) -> score, of tensors whose shapes broadcast; the last four are
        indices.
    """
    segment_of, row_of, col_of, reach_of, slot_of = _key_maps(bias.shapes, bias.windows, bias.values.device)
    rows, cols, cones, top = _geometry(bias)
    # In float64, so that strong biases cost no digits.
    values = bias.per_head().double()  # (B, heads or 1, Q, S)
    near = torch.cat([values[..., segment:segment + 1] * cone for segment, cone in enumerate(cones)], dim=-1)
    near = (near - top.unsqueeze(-1)).to(dtype)  # (B, heads or 1, Q, slots)
    far = (-top).to(dtype)  # (B, heads or 1, Q)
    heads = near.shape[1]

    def add_bias(score, sample, head, query, key):
        segment, reach = segment_of[key], reach_of[key]
        inside = (((row_of[key] - rows[sample, query, segment]).abs() <= reach)
                  & ((col_of[key] - cols[sample, query, segment]).abs() <= reach))
        return score + torch.where(inside, near[sample, head % heads, query, slot_of[key]],
                                   far[sample, head % heads, query])

    return add_bias


@functools.lru_cache(maxsize=16)
def _key_maps(shapes, windows, device):
    """What the kernel asks about a key.

    A window never holds two rows with the same remainder by its size, nor two columns: the remainders of a key's row
    and column say which of the window's cells it would be. So the slot in the table depends on the key alone. A map
    that is smaller than the window has a slot for each of its cells.

    Returns:
        tuple[Tensor]: five of (F,) int32: its segment, row and column, the reach of the segment's windows in cells, and
        the slot of the key in the table of a query.
    """
    maps, first_slot = [], 0
    with torch.inference_mode(False):  # kept for training, too
        for segment, ((height, width), window) in enumerate(zip(shapes, _all_windows(shapes, windows))):
            row = torch.arange(height, device=device).repeat_interleave(width)
            col = torch.arange(width, device=device).repeat(height)
            slot_rows, slot_cols = _slots(height, window), _slots(width, window)
            slot = torch.zeros_like(row)
            if window is not None and len(row):
                slot = row % slot_rows * slot_cols + col % slot_cols
            reach = EVERYWHERE if window is None else window // 2
            maps.append(torch.stack([torch.full_like(row, segment), row, col, torch.full_like(row, reach),
                                     slot + first_slot]))
            first_slot += slot_rows * slot_cols
        # Each in memory of its own, which starts where kernels want it.
        return tuple(x.clone() for x in torch.cat(maps, dim=1).int())


def _all_windows(shapes, windows):
    return (None, ) * len(shapes) if windows is None else windows


def _slots(size, window):
    """Slots along an axis of a map; one for all where the segment is biased as a whole."""
    return 1 if window is None else min(window, size)


def _geometry(bias):
    """What all layers share: made once per forward pass, and again if the bias' values were changed in place.

    Returns:
        tuple: rows and columns of the windows' centers (B, Q, S) int32; the window factors of the slots of each
        segment, (B or 1, 1, Q or 1, slots) in float64, 0 where it does not see the query; and the largest bias of each
        query (B, heads or 1, Q) in float64.
    """
    # Inference tensors have no version: there a bias must stay as it is, as that of a forward pass does.
    version = [None if part is None or part.is_inference() else part._version
               for part in (bias.values, bias.cells, bias.seen)]
    if bias not in _GEOMETRIES or _GEOMETRIES[bias][0] != version:
        with torch.no_grad():
            _GEOMETRIES[bias] = version, (*_centers(bias), [_slot_cone(bias, segment)
                                                            for segment in range(len(bias.shapes))], bias.top())
    return _GEOMETRIES[bias][1]


def _centers(bias):
    if not bias.is_local:
        zeros = torch.zeros_like(bias.per_head()[:, 0], dtype=torch.int32)
        return zeros, zeros
    is_whole = torch.tensor([window is None for window in bias.windows], device=bias.cells.device)
    centers = bias.cells.masked_fill(is_whole.unsqueeze(-1), 0)
    return [x.contiguous() for x in centers.int().unbind(-1)]


def _slot_cone(bias, segment):
    """Window factors of the slots of one segment."""
    window = _all_windows(bias.shapes, bias.windows)[segment]
    if window is None:
        return torch.ones(1, 1, 1, 1, dtype=torch.float64, device=bias.values.device)
    cells = bias.cells[:, :, segment]  # (B, Q, 2)
    down, right = (_slot_offsets(cells[..., axis:axis + 1], bias.shapes[segment][axis], window) for axis in (0, 1))
    distance = torch.hypot(down.unsqueeze(-1).double(), right.unsqueeze(-2).double()).flatten(2)  # (B, Q, slots)
    cone = (1 - distance / (window / 2)).clamp(min=0) * bias.seen[:, :, segment, None]
    return cone.unsqueeze(1)


def _slot_offsets(center, size, window):
    """Offsets, in cells, from windows' centers (B, Q, 1) to the cells of the slots along an axis: (B, Q, slots)."""
    offsets = torch.arange(_slots(size, window), device=center.device) - center
    if window < size:  # of all cells with that remainder, the one in the window
        reach = window // 2
        offsets = (offsets + reach) % window - reach
    return offsets
