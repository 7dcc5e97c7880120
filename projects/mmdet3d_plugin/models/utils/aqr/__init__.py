"""Adaptive query routing: how far each query trusts LiDAR and how far the cameras."""
from .aqr import AQR, AQROptions, build_aqr_parts
from .aqr_weight_generator import AQRWeightGenerator
from .conferring_router import ConferringRouter
from .looks import Looks, RouterEvidence

__all__ = ['AQR', 'AQROptions', 'AQRWeightGenerator', 'ConferringRouter', 'Looks', 'RouterEvidence',
           'build_aqr_parts']
