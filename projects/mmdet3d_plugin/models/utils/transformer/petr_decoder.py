"""Decoder of PETR and CMT: mmcv's transformer layers, with intermediate outputs and activation checkpointing."""
import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.registry import TRANSFORMER_LAYER, TRANSFORMER_LAYER_SEQUENCE
from mmcv.cnn.bricks.transformer import BaseTransformerLayer, TransformerLayerSequence
from torch.utils.checkpoint import checkpoint


@TRANSFORMER_LAYER.register_module()
class PETRTransformerDecoderLayer(BaseTransformerLayer):
    """mmcv's transformer layer with activation checkpointing.

    Args:
        with_cp (bool): recompute activations in backward. Non-reentrant, since gradients also flow
            through the bias nested in ``attn_masks`` (docs/design.md, "Cross-attention as published").
        operation_order (tuple[str]): must hold one self-attention and one cross-attention.
        kwargs: see mmcv's ``BaseTransformerLayer``.
    """

    def __init__(self, *args, operation_order, with_cp=True, **kwargs):
        super().__init__(*args, operation_order=operation_order, **kwargs)
        attentions = sorted(op for op in operation_order if op.endswith('attn'))
        if attentions != ['cross_attn', 'self_attn']:
            raise ValueError("operation_order must hold one 'self_attn' and one 'cross_attn', got "
                             f'{operation_order}')
        self.with_cp = with_cp

    def forward(self, *args, **kwargs):
        if self.with_cp and self.training:
            return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)
        return super().forward(*args, **kwargs)


@TRANSFORMER_LAYER_SEQUENCE.register_module()
class PETRTransformerDecoder(TransformerLayerSequence):
    """Layers whose outputs all go, normalized, to the heads.

    Args:
        return_intermediate (bool): return every layer's output instead of the last one's.
        post_norm_cfg (dict | None): norm applied to each returned output, default LayerNorm.
        kwargs: see mmcv's ``TransformerLayerSequence``.
    """

    def __init__(self, *args, post_norm_cfg='default', return_intermediate=False, **kwargs):
        super().__init__(*args, **kwargs)
        orders = {tuple(layer.operation_order) for layer in self.layers}
        if len(orders) != 1:
            raise ValueError('all layers need one operation_order, since masks are handed to all alike; got '
                             f'{sorted(orders)}')
        self.return_intermediate = return_intermediate
        if post_norm_cfg == 'default':
            post_norm_cfg = dict(type='LN')
        self.post_norm = build_norm_layer(post_norm_cfg, self.embed_dims)[1] if post_norm_cfg else None

    def attention_slot(self, kind):
        """Position of 'self_attn' or 'cross_attn' in ``attn_masks`` (docs/design.md, "Tokens and masks")."""
        attentions = [op for op in self.layers[0].operation_order if op.endswith('attn')]
        return attentions.index(kind)

    def forward(self, query, *args, layer_masks=None, num_layers=None, **kwargs):
        """(Q, B, C) queries -> (L, Q, B, C), or (1, Q, B, C) without ``return_intermediate``.

        Args:
            query (Tensor): (Q, B, C).
            layer_masks (Sequence | None): ``attn_masks`` of each layer, in place of one for all.
            num_layers (int | None): run the first so many layers, default all.
            args, kwargs: see mmcv's ``BaseTransformerLayer``.
        """
        outputs = []
        for index, layer in enumerate(self.layers[:num_layers]):
            if layer_masks is not None:
                kwargs['attn_masks'] = layer_masks[index]
            query = layer(query, *args, **kwargs)
            outputs.append(query)
        if not self.return_intermediate:
            outputs = outputs[-1:]
        return torch.stack([out if self.post_norm is None else self.post_norm(out) for out in outputs])
