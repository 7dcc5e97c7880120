"""The compact form of the attention bias: a few numbers per query instead of a (B, Q, F) tensor."""
import itertools
import math
from dataclasses import dataclass
from typing import Optional, Tuple

import torch

from .shared_parts import SharedPart


def window_offsets(window, device):
    """(window ** 2, 2) int64 offsets (row, col) of the cells of an odd square window from its center."""
    reach = torch.arange(window, device=device) - window // 2
    return torch.cartesian_prod(reach, reach).view(-1, 2)


@dataclass(frozen=True, eq=False)
class AttentionBias:
    """Additive bias that is constant on each segment of the keys, or fades around a cell of it
    (docs/design.md, "The idea").

    The keys are S segments one after the other, each a map of cells, row-major: the BEV map and the camera views. On
    segment s the bias of a query is ``values[s]`` everywhere or, with windows,
    ``values[s] * max(0, 1 - dist / (window[s] / 2))`` with dist the Euclidean distance in cells to ``cells[s]``, and 0
    where the segment does not see the query.

    Attributes:
        values: (B, Q, S), or (B, heads, Q, S) for a bias of its own per head; the only part with a gradient. -inf takes
            a segment out, as long as the query has another one.
        shapes: (height, width) of each segment.
        cells: (B, Q, S, 2) int64 (row, col), None for a bias without windows.
        seen: (B, Q, S) bool, the segment has a window for the query.
        windows: window size of each segment, in cells, odd; None for a segment that is biased as a whole, seen or not.
        parts: a SharedPart of each segment, for several biases on the same queries and keys; None to share nothing.
    """

    values: torch.Tensor
    shapes: Tuple[Tuple[int, int], ...]
    cells: Optional[torch.Tensor] = None
    seen: Optional[torch.Tensor] = None
    windows: Optional[Tuple[Optional[int], ...]] = None
    parts: Optional[Tuple[SharedPart, ...]] = None

    def __post_init__(self):
        if not (self.values < math.inf).all():  # NaN neither
            raise ValueError('values must be finite, or -inf for a segment that a query does not attend to')
        if self.is_local and not torch.isfinite(self.values).all():
            raise ValueError('values must be finite beside windows, which scale them')
        if self.values.dim() not in (3, 4) or self.values.shape[-1] != len(self.shapes):
            raise ValueError(f'values must be (B, Q, S) or (B, heads, Q, S) with S = {len(self.shapes)} segments, got '
                             f'{tuple(self.values.shape)}')
        if not (self.values > -math.inf).any(dim=-1).all():
            raise ValueError('values: a query has -inf on all segments and nothing left to attend to')
        parts = {name: getattr(self, name) is not None for name in ('cells', 'seen', 'windows')}
        if len(set(parts.values())) != 1:
            raise ValueError('cells, seen and windows go together, got '
                             f'{[name for name, given in parts.items() if given]}')
        if self.is_local:
            batch_query = (self.values.shape[0], self.values.shape[-2])
            expected = dict(cells=(*batch_query, len(self.shapes), 2), seen=(*batch_query, len(self.shapes)))
            for name, shape in expected.items():
                if tuple(getattr(self, name).shape) != shape:
                    raise ValueError(f'{name} must be {shape}, got {tuple(getattr(self, name).shape)}')
            if len(self.windows) != len(self.shapes) or any(w is not None and (w < 1 or w % 2 == 0)
                                                            for w in self.windows):
                raise ValueError(f'windows must hold an odd size >= 1 or None for each of {len(self.shapes)} '
                                 f'segments, got {self.windows}')

    @property
    def is_local(self):
        return self.cells is not None

    @property
    def segments(self):
        """Slice of the keys of each segment."""
        ends = [0, *itertools.accumulate(height * width for height, width in self.shapes)]
        return [slice(start, end) for start, end in zip(ends, ends[1:])]

    @property
    def num_tokens(self):
        return self.segments[-1].stop

    @property
    def shape(self):
        """Shape of the dense form."""
        return torch.Size((*self.values.shape[:-1], self.num_tokens))

    def per_head(self):
        """``values`` as (B, heads or 1, Q, S)."""
        return self.values if self.values.dim() == 4 else self.values.unsqueeze(1)

    def top(self):
        """Largest bias of each query over all keys, (B, heads or 1, Q) in float64, without gradient.

        Softmax ignores a constant per query. Without this one, strong biases leave the scores the digits in which they
        differ: float32 next to 1e4 has steps of 0.001, and exp turns these into errors of the weights.
        """
        values = self.per_head().detach().double()  # (B, heads or 1, Q, S)
        tops = [values[..., segment] * self._nearest_factor(segment, values[..., segment])
                for segment, (height, width) in enumerate(self.shapes) if height * width]
        return torch.stack(tops, dim=-1).amax(dim=-1) if tops else values.new_zeros(values.shape[:-1])

    def _nearest_factor(self, segment, values):
        """Window factor where the bias of one segment, of ``values`` (B, heads or 1, Q), is largest: at the window's
        center or, if negative, in the corner of the map that lies farthest from it.
        """
        if not self.is_local or self.windows[segment] is None:
            return torch.ones_like(values)
        (height, width), (row, col) = self.shapes[segment], self.cells[:, :, segment].double().unbind(-1)
        corner = torch.hypot(torch.maximum(row, height - 1 - row), torch.maximum(col, width - 1 - col))  # (B, Q)
        farthest = (1 - corner / (self.windows[segment] / 2)).clamp(min=0).unsqueeze(1)
        return torch.where(values > 0, 1.0, farthest) * self.seen[:, None, :, segment]

    def cone(self, segment, query=slice(None), rows=None, dtype=torch.float32):
        """Window factors in [0, 1] of one segment.

        Args:
            segment (int): which.
            query: index into (B, Q) that picks N queries, for example ``(sample, indices)``; default: all.
            rows (range | None): rows of the map, default: all.
            dtype: of the result.

        Returns:
            Tensor: (*N, len(rows) * width), zero outside the window and where the segment does not see the query.
        """
        height, width = self.shapes[segment]
        rows = range(height) if rows is None else rows
        shape = (*self.seen[query].shape[:-1], len(rows) * width)
        if self.windows[segment] is None or not shape[-1]:
            return torch.ones(shape, dtype=dtype, device=self.cells.device)
        place, factors = self.window_cells(segment, query, rows, dtype)
        cone = factors.new_zeros(*shape[:-1], shape[-1] + 1).scatter(-1, place, factors.expand(place.shape))
        return cone[..., :-1]

    def window_cells(self, segment, query, rows, dtype):
        """The cells of windows, and their factors in [0, 1].

        Args:
            segment, query: see :meth:`cone`; a segment with a window.
            rows (range): rows of the map.
            dtype: of the factors.

        Returns:
            tuple[Tensor, Tensor]: (*N, window ** 2) int64, positions among the cells of these rows, where all that lie
            outside or in a segment that does not see the query have the position after the last; and (window ** 2,)
            factors.
        """
        width, window = self.shapes[segment][1], self.windows[segment]
        cells, seen = self.cells[query][..., segment, :], self.seen[query][..., segment, None]
        offsets = window_offsets(window, cells.device)  # (window ** 2, 2)
        factors = (1 - offsets.to(dtype).norm(dim=-1) / (window / 2)).clamp(min=0)
        row = cells[..., :1] - rows.start + offsets[:, 0]  # (*N, window ** 2)
        col = cells[..., 1:] + offsets[:, 1]
        inside = seen & (row >= 0) & (row < len(rows)) & (col >= 0) & (col < width)
        return torch.where(inside, row * width + col, len(rows) * width), factors

    def dense(self):
        """The (B, Q, F) or (B, heads, Q, F) tensor that defines what this bias means."""
        parts = []
        for segment, (height, width) in enumerate(self.shapes):
            value = self.values[..., segment:segment + 1]
            if self.is_local:
                cone = self.cone(segment, dtype=self.values.dtype)  # (B, Q, h * w)
                parts.append(value * (cone.unsqueeze(1) if value.dim() == 4 else cone))
            else:
                parts.append(value.expand(*value.shape[:-1], height * width))
        return torch.cat(parts, dim=-1)

    def dense_scores(self):
        """The dense form less the largest bias of each query (:meth:`top`), to add to scores before a softmax."""
        top = self.top() if self.values.dim() == 4 else self.top().squeeze(1)
        return self.dense() - top.unsqueeze(-1).to(self.values)
