"""What the decoder's cross-attention looks at, recorded beside a forward pass that does not notice.

A bias of +-alpha acts only where the scores of the modalities lie within a few alpha of each other (docs/design.md,
"Scale of the scores"); these numbers say whether they do. They come from a few sums over the keys of each segment:
softmax over all keys is the mixture of the softmaxes of the segments, weighted by their log-sum-exps, and its entropy
is the segments' mean entropy plus that of the mixture. A bias that is constant on a segment shifts the log-sum-exps
alone.
"""
import dataclasses
import inspect
import math
from typing import NamedTuple, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import nn

from ..attention.attention_bias import AttentionBias
from ..attention.multi_head import ScaledDotProductMHA
from ..attention.reference import masks_to_bias
from ..attention.stand_ins import needed_segments, with_stand_ins
from ..token_layout import MODALITIES, TokenLayout
from .cmt_transformer import CmtTransformer
from .petr_attention import SequenceFirstMHA

# Scores held at a time, by taking queries in blocks: 8 MB come from memory that is there already, more from new pages.
BLOCK_SCORES = 1 << 21

# Scores so far below the largest count as this far: exp stays a normal number, which CPUs handle 20 times faster.
_NEGLIGIBLE = -80.0


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionStatistics:
    """Cross-attention of one decoder layer, for q of its queries, in float32 or wider, without gradient.

    "Without the bias" means the same scores with nothing added; keys that a mask forbids (True or -inf) stay forbidden.
    Attention dropout is not part of these numbers. A query all of whose keys are forbidden has NaN.

    Attributes:
        mass: (B, q, 2) in [0, 1], share of the attention that goes to each of ``MODALITIES``, mean over heads.
        mass_unbiased: (B, q, 2), the same without the bias.
        stand_in_mass: (B, q, 2), share that goes to the stand-ins of each, zeros without stand-ins; with ``mass`` it
            adds up to 1.
        entropy: (B, q) in nats, of the attention over all keys, mean over heads.
        score_range: (2, 2), smallest and largest score of each of ``MODALITIES`` before the bias (q.k / sqrt(d), with
            query-key normalization temperature * cosine), over batch, heads, the q queries and the keys that they may
            see; (inf, -inf) where there is no such key.
        query_index: (q,) int64, ascending, positions of the queries among all that the decoder was given, denoising
            ones included.
    """

    mass: torch.Tensor
    mass_unbiased: torch.Tensor
    stand_in_mass: torch.Tensor
    entropy: torch.Tensor
    score_range: torch.Tensor
    query_index: torch.Tensor


class AttentionMaps(NamedTuple):
    """Attention (B, heads, q, F) with the bias and without it, keys in the order of TokenLayout.

    What goes to stand-ins is left out: there, the biased one adds up to less than 1.
    """

    biased: torch.Tensor
    unbiased: torch.Tensor


class AttentionRecorder:
    """Context manager that records the cross-attention of every decoder layer during forward passes of a CMT model.

    Hooks do the work; they change no output, gradient or random state, and are gone on exit. Each pass replaces the
    records of the one before; recomputation of checkpointed layers in backward is not a pass::

        with AttentionRecorder(head, num_queries=64) as recorder:
            head(pts_feats, img_feats, img_metas)
        lidar_share = recorder.statistics[-1].mass[..., 0].mean()

    Args:
        model (nn.Module): a CmtTransformer or a module that holds one, such as a CmtHead or a detector.
        num_queries (int | None): draw so many of the learned queries in each pass, None for all of them.
        seed (int): of the draws.
        num_learned (int | None): how many queries, the last ones, are learned; those before them are denoising queries.
            Default: ``num_query`` of the head in ``model``, or all queries where ``model`` is a transformer alone.
        keep_maps (bool): keep what :meth:`attention_maps` needs, for each layer a tensor as large as the tokens.

    Attributes:
        statistics (list[AttentionStatistics]): one per layer, of the last complete pass; empty before it.
        layout (TokenLayout | None): of that pass.

    Raises:
        ValueError: for a model without exactly one CmtTransformer, or numbers of queries that cannot be.
        TypeError: for a cross-attention that is not of the kinds in petr_attention.py.
    """

    def __init__(self, model, num_queries=None, seed=0, num_learned=None, keep_maps=False):
        self._transformer = _only_transformer(model)
        if num_learned is None:
            num_learned = next((holder.num_query for holder in model.modules()
                                if getattr(holder, 'transformer', None) is self._transformer), None)
        for name, number in dict(num_queries=num_queries, num_learned=num_learned).items():
            if number is not None and number < 1:
                raise ValueError(f'{name} must be None or >= 1, got {number}')
        if None not in (num_queries, num_learned) and num_queries > num_learned:
            raise ValueError(f'num_queries must be at most the {num_learned} learned queries, got {num_queries}')
        self.num_queries = num_queries
        self.num_learned = num_learned
        self.keep_maps = keep_maps
        self.statistics = []
        self.layout = None
        slot = self._transformer.decoder.attention_slot('cross_attn')
        self._modules = [_checked_attention(layer.attentions[slot]) for layer in self._transformer.decoder.layers]
        self._generator = torch.Generator().manual_seed(seed)
        self._pass = None
        self._runs = []
        self._kept = []
        self._handles = []

    def __enter__(self):
        if self._handles:
            raise RuntimeError('this AttentionRecorder is recording already; use another one')
        self._handles = [
            self._transformer.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._transformer.register_forward_hook(self._end, always_call=True),
            *(module.register_forward_hook(self._record, with_kwargs=True) for module in self._modules)]
        return self

    def __exit__(self, *exc_info):
        for handle in self._handles:
            handle.remove()
        self._handles, self._pass = [], None

    @torch.no_grad()
    def attention_maps(self, layer, queries):
        """Attention of chosen queries in the last pass.

        Args:
            layer (int): of the decoder; negative ones count from the last.
            queries (Tensor | Sequence[int]): q positions among all queries, as ``query_index``.

        Returns:
            AttentionMaps: two tensors (B, heads, q, F), each row sums to 1.

        Raises:
            RuntimeError: without ``keep_maps``, or before the first complete pass.
            IndexError: for a layer or query that does not exist.
        """
        if not self._kept:
            raise RuntimeError('attention_maps needs keep_maps=True and a complete forward pass, got keep_maps='
                               f'{self.keep_maps} and {len(self.statistics)} recorded layers')
        attention = self._kept[layer]
        attention = attention.take(torch.as_tensor(queries, dtype=torch.long, device=attention.key.device))
        scores, bias = attention.scores_and_bias()
        is_token = torch.cat([torch.arange(run.start, run.stop) for run in self._runs]) < self.layout.num_tokens
        unbiased = scores[..., is_token].softmax(dim=-1)
        return AttentionMaps(unbiased if bias is None else (scores + bias).softmax(dim=-1)[..., is_token], unbiased)

    def _begin(self, transformer, args, kwargs):
        arguments = inspect.signature(transformer.forward).bind(*args, **kwargs).arguments
        if arguments.get('num_layers') is not None:  # a look of the router: not what detects
            return
        batch, num_query = arguments['query_embed'].shape[:2]
        layout = TokenLayout.from_features(arguments['x'], arguments['x_img'], batch)
        rows = self._draw(num_query, arguments.get('attn_masks')).to(arguments['query_embed'].device)
        self.statistics, self._kept, self.layout = [], [], None
        self._pass = _Pass(layout, _runs_of_keys(arguments, layout), rows, {}, {})

    def _draw(self, num_query, attn_masks):
        """Positions (q,) of the queries to record, among ``num_query``."""
        num_learned = self.num_learned
        if num_learned is None:
            if isinstance(attn_masks, (list, tuple)):
                attn_masks = attn_masks[self._transformer.decoder.attention_slot('self_attn')]
            if attn_masks is not None:
                raise ValueError('num_learned is needed where self-attention is masked: queries may be denoising '
                                 'ones; give num_learned, or the head instead of its transformer')
            num_learned = num_query
        if max(num_learned, self.num_queries or 0) > num_query:
            raise ValueError(f'a forward pass with {num_query} queries, too few for num_learned={self.num_learned} and '
                             f'num_queries={self.num_queries}')
        rows = torch.arange(num_learned)
        if self.num_queries is not None:
            rows = torch.randperm(num_learned, generator=self._generator)[:self.num_queries].sort().values
        return num_query - num_learned + rows

    def _record(self, module, args, kwargs, output):
        if self._pass is None:  # recomputation in backward
            return
        arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        with torch.no_grad(), torch.autocast(arguments['key'].device.type, enabled=False):
            attention = _Attention.of(module, **arguments)
            self._pass.statistics[module] = summarize_attention(
                attention, self._pass.rows, self._pass.layout, self._pass.runs)
            if self.keep_maps:
                self._pass.kept[module] = attention

    def _end(self, transformer, args, output):
        """Also after an exception, which leaves some layers without a record."""
        done, self._pass = self._pass, None
        if done is not None and len(done.statistics) == len(self._modules):
            self.layout, self._runs = done.layout, done.runs
            self.statistics = [done.statistics[module] for module in self._modules]
            self._kept = [done.kept[module] for module in self._modules if self.keep_maps]


class _Pass(NamedTuple):
    """A forward pass under way: what its keys are (:func:`_runs_of_keys`), which queries to record, and the records by
    attention module.
    """

    layout: TokenLayout
    runs: Sequence[slice]
    rows: torch.Tensor
    statistics: dict
    kept: dict


def _runs_of_keys(arguments, layout):
    """list[slice]: what the keys of a pass are, one run after the other, as positions among the F tokens and, after
    them, their F stand-ins.

    Args:
        arguments (dict): of ``CmtTransformer.forward``.
        layout (TokenLayout): of the tokens.
    """
    bias = arguments.get('aqr_attention_bias')
    if arguments.get('stand_ins') is None or bias is None:
        return [slice(0, layout.num_tokens)]
    biases = [with_stand_ins(each) for each in (bias if isinstance(bias, (list, tuple)) else [bias])]
    return [biases[0].segments[index] for index in needed_segments(biases)]


def _only_transformer(model):
    found = [module for module in model.modules() if isinstance(module, CmtTransformer)]
    if len(found) != 1:
        raise ValueError(f'model must be or hold exactly one CmtTransformer, {type(model).__name__} has {len(found)}')
    return found[0]


def _checked_attention(attention):
    """The part of a cross-attention module that is given queries, keys with their positions, and masks."""
    inner = getattr(attention, 'attn', None)
    if not isinstance(inner, (ScaledDotProductMHA, nn.MultiheadAttention)):
        raise TypeError('cross-attention must be PETRMultiheadFlashAttention or PETRMultiheadAttention, got '
                        f'{type(attention).__name__}')
    if isinstance(inner, nn.MultiheadAttention) and (inner.in_proj_weight is None or inner.bias_k is not None
                                                     or inner.add_zero_attn):
        raise ValueError('cross-attention with kdim, vdim, add_bias_kv or add_zero_attn cannot be recorded')
    return inner


@dataclasses.dataclass(frozen=True, eq=False)
class _Attention:
    """An attention up to its scores, detached.

    Attributes:
        query: (B, heads, Q, d), divided by sqrt(d).
        key: (B, heads, d, F), contiguous: so every block of queries can multiply it as it is.
        masks: each an AttentionBias or a tensor that broadcasts to (B, heads, Q, F), bool True = forbidden, float =
            added.
    """

    query: torch.Tensor
    key: torch.Tensor
    masks: Tuple

    @classmethod
    def of(cls, module, query, key, attn_mask=None, key_padding_mask=None, **unused):
        """From the arguments of a ScaledDotProductMHA or nn.MultiheadAttention."""
        if isinstance(module, (nn.MultiheadAttention, SequenceFirstMHA)):
            query, key = query.transpose(0, 1), key.transpose(0, 1)  # (B, N, C)
        dtype = torch.promote_types(key.dtype, torch.float32)
        weights = module.in_proj_weight.to(dtype).chunk(3)
        biases = (None, ) * 3 if module.in_proj_bias is None else module.in_proj_bias.to(dtype).chunk(3)
        query, key = (_project(x.to(dtype), weight, bias).unflatten(1, (module.num_heads, -1)).transpose(2, 3)
                      for x, weight, bias in zip((query, key), weights, biases))  # (B, heads, N, d)
        if getattr(module, 'log_temperature', None) is not None:
            query, key = module.normalize_query(query), module.normalize_key(key)
        masks = []
        if isinstance(attn_mask, AttentionBias):
            masks.append(dataclasses.replace(attn_mask, values=attn_mask.per_head().detach()))
        elif attn_mask is not None:
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.unflatten(0, (-1, module.num_heads))  # (B, heads, Q, F)
            masks.append(attn_mask.detach())
        if key_padding_mask is not None:
            masks.append(key_padding_mask[:, None, None])  # (B, 1, 1, F)
        return cls(query / math.sqrt(query.shape[-1]), key.transpose(2, 3).contiguous(), tuple(masks))

    def take(self, rows):
        """Some of the queries."""
        return _Attention(self.query[:, :, rows], self.key, tuple(_take_rows(mask, rows) for mask in self.masks))

    @property
    def may_forbid(self):
        """A compact bias forbids nothing but stand-ins."""
        return not all(isinstance(mask, AttentionBias) for mask in self.masks)

    @property
    def shift(self):
        """The AttentionBias where nothing else is added and it is constant on segments, otherwise None."""
        if len(self.masks) == 1 and isinstance(self.masks[0], AttentionBias) and not self.masks[0].is_local:
            return self.masks[0]
        return None

    def scores_and_bias(self):
        """Scores (B, heads, Q, F), -inf where forbidden, and what is added to them, None if nothing."""
        scores = self.query @ self.key
        bias = None
        for mask in self.masks:
            part = mask.dense() if isinstance(mask, AttentionBias) else masks_to_bias(mask, scores.dtype)
            bias = part if bias is None else bias + part
            if not isinstance(mask, AttentionBias):
                scores.masked_fill_(part == -math.inf, -math.inf)
        return scores, bias


def _project(x, weight, bias):
    """(B, N, C) -> (B, C, N), contiguous: in this order no head has to be copied together."""
    weight, x = weight.expand(len(x), -1, -1), x.transpose(1, 2)
    return torch.bmm(weight, x) if bias is None else torch.baddbmm(bias[:, None], weight, x)


def _take_rows(mask, rows):
    if not isinstance(mask, AttentionBias):
        return mask if mask.shape[-2] == 1 else mask[..., rows, :]
    parts = dict(values=mask.values[..., rows, :])
    if mask.is_local:
        parts.update(cells=mask.cells[:, rows], seen=mask.seen[:, rows])
    return dataclasses.replace(mask, **parts)


def summarize_attention(attention, rows, layout, runs):
    """AttentionStatistics of the queries at ``rows`` (q,), block by block; ``runs``: see :func:`_runs_of_keys`."""
    scores_per_query = max(1, attention.key[:, :, 0].numel())
    blocks = [_summarize_block(attention.take(block), layout, runs)
              for block in rows.split(max(1, BLOCK_SCORES // scores_per_query))]
    mass, mass_unbiased, stand_in_mass, entropy, low, high = zip(*blocks)
    score_range = torch.stack([torch.stack(low).amin(dim=0), torch.stack(high).amax(dim=0)], dim=-1)  # (2, 2)
    per_query = (torch.cat(parts, dim=1) for parts in (mass, mass_unbiased, stand_in_mass, entropy))
    return AttentionStatistics(*per_query, score_range, rows)


def _summarize_block(attention, layout, runs):
    """Mass, unbiased mass and mass of stand-ins (B, q, 2), entropy (B, q), smallest and largest scores (2,)."""
    shift, forbids = attention.shift, attention.may_forbid
    scores, bias = (attention if shift is None else dataclasses.replace(attention, masks=())).scores_and_bias()
    pieces = list(_pieces(shift, layout, runs))
    lse, entropy_within = _moments(scores, pieces)
    kind = torch.tensor([kind for kind, _, _ in pieces], device=scores.device)
    member = F.one_hot(kind, 2 * len(MODALITIES)).to(scores.dtype)  # (P, 4)
    of_tokens = kind < len(MODALITIES)
    mass, entropy = _mixture(lse.masked_fill(~of_tokens, -math.inf), entropy_within)
    mass_unbiased = mass
    if shift is not None:
        segments = [segment for _, segment, _ in pieces]
        mass, entropy = _mixture(lse + shift.values[..., segments], entropy_within)
    elif bias is not None:
        mass, entropy = _mixture(*_moments(scores + bias, pieces))
    tokens, stand_ins = (mass @ member).mean(dim=1).split(len(MODALITIES), dim=-1)  # (B, q, 2) each
    return (tokens, (mass_unbiased @ member)[..., :len(MODALITIES)].mean(dim=1), stand_ins, entropy.mean(dim=1),
            *_extremes(scores, pieces, forbids))


def _extremes(scores, pieces, forbids):
    """Smallest and largest score (2,) of each modality's tokens."""
    low, high = scores.new_full((2, ), math.inf), scores.new_full((2, ), -math.inf)
    for kind, _, keys in pieces:
        if kind < len(MODALITIES):
            part = scores[..., keys]
            high[kind] = torch.maximum(high[kind], part.amax())
            allowed = part.masked_fill(part == -math.inf, math.inf) if forbids else part
            low[kind] = torch.minimum(low[kind], allowed.amin())
    return low, high


def _pieces(shift, layout, runs):
    """(kind, segment of the bias, slice of the keys) for each run of keys of one kind and segment.

    Kinds are the modalities' tokens and, among the keys after the tokens, the modalities' stand-ins.
    """
    bounds = (0, layout.num_bev), (layout.num_bev, layout.num_tokens)
    bounds += tuple((first + layout.num_tokens, last + layout.num_tokens) for first, last in bounds)
    end = 0
    for run in runs:
        offset, end = end - run.start, end + run.stop - run.start  # from a position to a place among the keys
        segments = [slice(offset + run.start, end)] if shift is None else shift.segments
        for kind, (first, last) in enumerate(bounds):
            for index, segment in enumerate(segments):
                keys = slice(max(first, run.start, segment.start - offset) + offset,
                             min(last, run.stop, segment.stop - offset) + offset)
                if keys.start < keys.stop:
                    yield kind, index, keys


def _moments(scores, pieces):
    """Log-sum-exp of the scores (B, heads, q, F) on each piece and entropy of the softmax there, (B, heads, q, P)."""
    lse, entropy = [], []
    for _, _, keys in pieces:
        part = scores[..., keys]
        peak = part.amax(dim=-1, keepdim=True)
        floor = peak.clamp(min=torch.finfo(peak.dtype).min)  # finite where all keys are forbidden
        part = (part - floor).clamp_(min=_NEGLIGIBLE)
        weights = part.exp()
        total = weights.sum(dim=-1)
        lse.append(peak.squeeze(-1) + total.log())
        entropy.append(total.log() - weights.mul_(part).sum(dim=-1) / total)
    return torch.stack(lse, dim=-1), torch.stack(entropy, dim=-1)


def _mixture(lse, entropy):
    """Shares (..., P) of pieces with these log-sum-exps, and entropy (...) of the whole, by the chain rule."""
    share = lse.softmax(dim=-1)
    return share, (share * entropy).sum(dim=-1) + torch.special.entr(share).sum(dim=-1)
