import dataclasses
import inspect
import math

import torch
from mmcv.cnn import xavier_init
from mmcv.cnn.bricks.transformer import build_transformer_layer_sequence
from mmcv.runner import BaseModule
from mmdet.models.utils.builder import TRANSFORMER
from torch import nn

from ....core.arguments import check_names
from ..attention.attention_bias import AttentionBias
from ..attention.key_chunks import can_chunk
from ..attention.shared_parts import SharedTokens
from ..attention.stand_ins import needed_segments, take_segments, with_stand_ins
from ..token_layout import TokenLayout


# Published configs of a single sensor name it otherwise.
@TRANSFORMER.register_module(name=['CmtTransformer', 'CmtLidarTransformer', 'CmtImageTransformer'])
class CmtTransformer(BaseModule):
    """CMT's decoder over LiDAR and camera tokens (Yan et al., ICCV 2023).

    Args:
        decoder (dict): config of the layer sequence.
        local_start (float | None): where given, the query and key projections of every cross-attention start as one and
            the same random orthogonal matrix times this factor (> 0), so that queries attend to tokens with a position
            embedding like theirs from the first step on.
        position_in_content (bool): queries start from a linear map of their position embedding, zero at first.
            Published checkpoints need False: there, queries start from zeros, so that a query knows its own place only
            by what it attends to, and how far along a camera ray it lies not at all.
        init_cfg (dict | None): as in mmcv.

    Raises:
        TypeError: for arguments that do not exist, proposing similar ones.
        ValueError: for a ``local_start`` that is not a finite number > 0.
    """

    def __init__(self, decoder, local_start=None, position_in_content=False, init_cfg=None, **unknown):
        check_names(unknown, set(inspect.signature(CmtTransformer).parameters) - {'unknown'})
        super().__init__(init_cfg)
        if local_start is not None and not (math.isfinite(local_start) and local_start > 0):
            raise ValueError(f'local_start must be None or a finite number > 0, got {local_start}')
        self.local_start = local_start
        self.decoder = build_transformer_layer_sequence(decoder)
        self.embed_dims = self.decoder.embed_dims
        self.query_start = nn.Linear(self.embed_dims, self.embed_dims) if position_in_content else None

    def init_weights(self):
        """Xavier-uniform matrices, as DETR, and then ``local_start``."""
        for module in self.modules():
            if getattr(module, 'weight', None) is not None and module.weight.dim() > 1:
                xavier_init(module, distribution='uniform')
        if self.query_start is not None:
            nn.init.zeros_(self.query_start.weight)
            nn.init.zeros_(self.query_start.bias)
        if self.local_start is not None:
            slot = self.decoder.attention_slot('cross_attn')
            for layer in self.decoder.layers:
                self._start_local(layer.attentions[slot].attn)
        self._is_init = True

    @torch.no_grad()
    def _start_local(self, attn):
        """Tie the query and key projections of an attention with the parameters of nn.MultiheadAttention; their biases
        are zero from the constructor.
        """
        query, key, _ = attn.in_proj_weight.chunk(3)
        nn.init.orthogonal_(query, gain=self.local_start)
        key.copy_(query)
        if attn.in_proj_bias is not None:
            attn.in_proj_bias[:2 * self.embed_dims] = 0

    def forward(self, x, x_img, query_embed, bev_pos_embed, rv_pos_embed, attn_masks=None, aqr_attention_bias=None,
                reg_branch=None, stand_ins=None, num_layers=None, shared=None):
        """Decode queries.

        Args:
            x (Tensor | None): (B, C, H, W) BEV features.
            x_img (Tensor | None): (B * V, C, h, w) camera features.
            query_embed (Tensor): (B, Q, C) position embedding of the queries.
            bev_pos_embed (Tensor | None): (H * W, C).
            rv_pos_embed (Tensor | None): (B * V, h, w, C).
            attn_masks (Tensor | list | None): a tensor is the denoising mask (Q, Q) of self-attention; a list holds one
                mask or None per attention, in the order of the layer's operations.
            aqr_attention_bias (AttentionBias | Tensor | Sequence | None): (B, Q, F), added to the cross-attention
                scores of every layer; or a list with one AttentionBias for each, (B, Q, F) or (B, heads, Q, F).
            reg_branch: must be None; CMT does not refine boxes between layers.
            stand_ins (tuple[Tensor, Tensor] | None): features of a blank LiDAR and of blank cameras, shaped as ``x``
                and ``x_img``: what a negative bias takes from a sensor goes to these, at the same positions, see
                :func:`with_stand_ins`. None: it goes to the other tokens.
            num_layers (int | None): decode with the first so many layers, default all.
            shared (SharedTokens | None): for calls with the same weights, queries, tokens and stand-ins, whose biases
                cut the tokens into the same segments, see :meth:`can_share`; the first one needs ``stand_ins``.

        Returns:
            tuple[Tensor, Tensor]: (L, B, Q, C) decoded queries and (F, B, C) tokens, without stand-ins.

        Raises:
            TypeError: for ``attn_masks`` of another type.
            ValueError: for masks that do not fit, a ``reg_branch``, or stand-ins without compact biases of whole
                segments.
        """
        if reg_branch is not None:
            raise ValueError('reg_branch: CMT does not refine boxes between decoder layers, only None is allowed')
        batch = query_embed.shape[0]
        layout = TokenLayout.from_features(x, x_img, batch)
        tokens = layout.runs(x, x_img, batch)
        positions = []
        if x is not None:
            positions.append(bev_pos_embed.unsqueeze(1).expand(-1, batch, -1))  # (H * W, B, C)
        if x_img is not None:
            views = rv_pos_embed.unflatten(0, (batch, -1)).permute(1, 2, 3, 0, 4)  # (V, h, w, B, C)
            positions.append(views.flatten(0, 2))
        biases, used = self._bias_of_layers(aqr_attention_bias), [slice(0, layout.num_tokens)]
        if stand_ins is not None and aqr_attention_bias is not None:
            _check_stand_ins(stand_ins, (x, x_img), biases)
            # A single layer asks for the parts that it needs: no keys have to be left out for it.
            biases, used = _with_stand_ins(biases, shared, needs_all=shared is not None and num_layers == 1)
        blank = [] if stand_ins is None else layout.runs(*stand_ins, batch)
        memory, keys, key_pos = _lay_out(tokens, blank, positions, used, shared)
        query_pos = query_embed.transpose(0, 1)  # (Q, B, C)
        shape = batch, query_embed.shape[1], len(keys)
        masks = _for_each_different(biases, lambda bias: self._slot_masks(attn_masks, bias, shape))
        query = torch.zeros_like(query_pos) if self.query_start is None else self.query_start(query_pos)
        out = self.decoder(
            query=query, key=keys, value=keys, query_pos=query_pos, key_pos=key_pos, layer_masks=masks,
            num_layers=num_layers)
        return out.transpose(1, 2), memory  # (L, B, Q, C), (F, B, C)

    def can_share(self, device):
        """Whether calls of :meth:`forward` on a device can have ``shared`` now: not in training, where dropout makes
        the queries of each call others.
        """
        attention = self.decoder.layers[0].attentions[self.decoder.attention_slot('cross_attn')]
        return not self.training and getattr(attention, 'impl', 'dense') != 'dense' and can_chunk(device)

    def _bias_of_layers(self, bias):
        """One bias for each layer."""
        layers = len(self.decoder.layers)
        if not isinstance(bias, (list, tuple)):
            return [bias] * layers
        if len(bias) != layers:
            raise ValueError(f'aqr_attention_bias: a list needs one bias per layer ({layers}), got {len(bias)}')
        return list(bias)

    def _slot_masks(self, attn_masks, bias, shape):
        """Masks in the order of the layer's attentions, the bias in the cross-attention's place."""
        self_slot, cross_slot = (self.decoder.attention_slot(kind) for kind in ('self_attn', 'cross_attn'))
        if attn_masks is None:
            masks = [None, None]
        elif isinstance(attn_masks, torch.Tensor):
            masks = [None, None]
            masks[self_slot] = attn_masks
        elif isinstance(attn_masks, (list, tuple)):
            if len(attn_masks) != 2:
                raise ValueError('attn_masks: a list needs one entry per attention of a layer (2), got '
                                 f'{len(attn_masks)}')
            masks = list(attn_masks)
        else:
            raise TypeError('attn_masks must be None, a tensor (denoising mask) or a list of two masks, got '
                            f'{type(attn_masks).__name__}')
        batch, num_query, num_tokens = shape
        allowed = {self_slot: (torch.Tensor, ), cross_slot: (torch.Tensor, AttentionBias)}
        for slot, mask in enumerate(masks):
            if mask is not None and not isinstance(mask, allowed[slot]):
                names = ' or '.join(kind.__name__ for kind in allowed[slot])
                raise TypeError(f'attn_masks[{slot}] must be None or {names}, got {type(mask).__name__}')
        if masks[cross_slot] is not None and tuple(masks[cross_slot].shape[-2:]) != (num_query, num_tokens):
            raise ValueError(f'attn_masks: the cross-attention mask must end in {(num_query, num_tokens)}, got '
                             f'{tuple(masks[cross_slot].shape)}')
        if masks[self_slot] is not None and tuple(masks[self_slot].shape[-2:]) != (num_query, num_query):
            raise ValueError(f'attn_masks: the self-attention mask must end in {(num_query, num_query)}, got '
                             f'{tuple(masks[self_slot].shape)}')
        if bias is not None:
            if not isinstance(bias, AttentionBias) and not (isinstance(bias, torch.Tensor)
                                                            and bias.is_floating_point()):
                raise TypeError('aqr_attention_bias must be an AttentionBias or a floating-point tensor, got '
                                f'{getattr(bias, "dtype", type(bias).__name__)}')
            if (bias.shape[0], *bias.shape[-2:]) != shape or (isinstance(bias, torch.Tensor) and bias.dim() != 3):
                raise ValueError(f'aqr_attention_bias must be (B, Q, F) = {shape}, got {tuple(bias.shape)}')
            masks[cross_slot] = _add_mask(bias, masks[cross_slot])
        return masks


def _for_each_different(biases, make):
    """``make`` of each bias of a list; made once, and shared, where layers have the same object."""
    made = {key: make(bias) for key, bias in {id(bias): bias for bias in biases}.items()}
    return [made[id(bias)] for bias in biases]


def _check_stand_ins(stand_ins, features, biases):
    """Raise ValueError where stand-ins do not go with features (x, x_img) and biases."""
    shapes = [tuple(tuple(each.shape) for each in group if each is not None) for group in (stand_ins, features)]
    if shapes[0] != shapes[1]:
        raise ValueError(f'stand_ins must have the shapes of x and x_img, {shapes[1]}, got {shapes[0]}')
    if not all(isinstance(each, AttentionBias) for each in biases):
        raise ValueError('stand_ins need the bias as AttentionBias, got '
                         f'{sorted({type(each).__name__ for each in biases})}')


def _with_stand_ins(biases, shared, needs_all):
    """Biases on tokens and on those stand-ins that any query leans on, and the segments (list of slices) of these.

    Stand-ins have no mass where nothing is taken from a sensor: they would be there at twice the cost.

    Args:
        biases (list[AttentionBias]): (B, Q, F) or (B, heads, Q, F) of each layer.
        shared (SharedTokens | None): whose parts the first layer gets.
        needs_all (bool): keep all stand-ins.
    """
    doubled = _for_each_different(biases, with_stand_ins)
    segments = doubled[0].segments
    used = list(range(len(segments))) if needs_all else needed_segments(doubled)
    biases = _for_each_different(doubled, lambda bias: take_segments(bias, used))
    segments = [segments[index] for index in used]
    if shared is not None:
        own = tuple(shared.parts[segment.start, segment.stop] for segment in segments)
        biases[0] = dataclasses.replace(biases[0], parts=own)
    return biases, segments


def _lay_out(tokens, stand_ins, positions, segments, shared):
    """Tokens (F, B, C), and keys (K, B, C) with their positions (K, B, C): the rows of some segments.

    Args:
        tokens, stand_ins, positions (list[Tensor]): (F_s, B, C) of each sensor s.
        segments (list[slice]): ascending, of tokens and, after them, stand-ins; at least all tokens.
        shared (SharedTokens | None): has all rows, or gets them.
    """
    num_tokens = sum(len(run) for run in tokens)
    if shared is None:  # rows for this call alone
        shared = SharedTokens()
        stand_ins = stand_ins if segments[-1].stop > num_tokens else []
    if shared.keys is None:
        shared.keys = torch.cat([*tokens, *stand_ins])
        shared.positions = torch.cat([*positions, *positions] if stand_ins else positions)
    return shared.keys[:num_tokens], _take_rows(shared.keys, segments), _take_rows(shared.positions, segments)


def _take_rows(keys, segments):
    """Rows of ascending segments: a view where these are the first ones."""
    end = segments[-1].stop
    if sum(segment.stop - segment.start for segment in segments) == end:
        return keys[:end]
    return torch.cat([keys[segment] for segment in segments])


def _add_mask(bias, mask):
    """Bias (B, Q, F) plus a mask (Q, F) or (B, Q, F): bool True = forbidden, float = added."""
    if mask is None:
        return bias
    bias, mask = (x.dense() if isinstance(x, AttentionBias) else x for x in (bias, mask))
    if bias.dim() == 4 or mask.dim() == 4:
        raise ValueError('attn_masks: a mask beside a bias of its own per head is not supported')
    if mask.dim() == 3 and mask.shape[0] != bias.shape[0]:
        raise ValueError('attn_masks: a cross-attention mask beside the AQR bias must be (Q, F) or (B, Q, F), got '
                         f'{tuple(mask.shape)}')
    if mask.dtype == torch.bool:
        return bias.masked_fill(mask, -math.inf)
    return bias + mask
