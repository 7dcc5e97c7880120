"""Adaptive query routing: how far each query trusts LiDAR and how far the cameras."""
from .aqr import AQR, AQROptions
from .aqr_weight_generator import AQRWeightGenerator

__all__ = ['AQR', 'AQROptions', 'AQRWeightGenerator']
