"""Adaptive query routing: how far each query trusts LiDAR and how far the cameras."""
from .aqr import AQR, AQROptions, build_aqr_parts
from .aqr_weight_generator import AQRWeightGenerator
from .conferring_router import ConferringRouter, Looks

__all__ = ['AQR', 'AQROptions', 'AQRWeightGenerator', 'ConferringRouter', 'Looks', 'build_aqr_parts']
