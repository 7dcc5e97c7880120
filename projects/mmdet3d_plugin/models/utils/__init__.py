from .attention_bias_generator import AttentionBiasGenerator

__all__ = ['AttentionBiasGenerator']
