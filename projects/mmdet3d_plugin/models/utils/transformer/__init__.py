"""CMT's transformer: position encoding, denoising queries, decoder, attention."""
from .cmt_transformer import CmtTransformer
from .petr_attention import PETRMultiheadAttention, PETRMultiheadFlashAttention
from .petr_decoder import PETRTransformerDecoder, PETRTransformerDecoderLayer

__all__ = [
    'CmtTransformer', 'PETRMultiheadAttention', 'PETRMultiheadFlashAttention', 'PETRTransformerDecoder',
    'PETRTransformerDecoderLayer'
]
