from . import backbones, dense_heads, detectors, middle_encoders, necks  # noqa: F401  (registration)
from .utils import aqr, transformer  # noqa: F401
