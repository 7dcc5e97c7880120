from . import sparse_conv  # noqa: F401  (replaces mmdet3d's registrations, so it comes first)
from .sparse_encoder import SparseEncoder

__all__ = ['SparseEncoder']
