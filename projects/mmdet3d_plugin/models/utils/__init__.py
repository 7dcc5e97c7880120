from .attention import petr_attention  # noqa: F401
from . import aqr_weight_generator, cmt_transformer, petr_decoder  # noqa: F401
from .attention_bias_generator import AttentionBiasGenerator

__all__ = ['AttentionBiasGenerator']
