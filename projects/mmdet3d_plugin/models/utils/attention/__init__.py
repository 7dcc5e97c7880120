"""Exact attention with an additive bias. This room needs torch alone."""
from .attention_bias import AttentionBias
from .backends import fused_attention, fused_obstacle
from .reference import reference_attention

__all__ = ['AttentionBias', 'fused_attention', 'fused_obstacle', 'reference_attention']
