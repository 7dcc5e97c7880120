"""Adaptive query routing: how far each query trusts LiDAR and how far the cameras."""
from .aqr import AQR, AQROptions, build_aqr_parts
from .aqr_weight_generator import AQRWeightGenerator

__all__ = ['AQR', 'AQROptions', 'AQRWeightGenerator', 'build_aqr_parts']
