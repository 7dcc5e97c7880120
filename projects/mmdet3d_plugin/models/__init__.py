from . import backbones, dense_heads, detectors, middle_encoders, necks, utils  # noqa: F401
