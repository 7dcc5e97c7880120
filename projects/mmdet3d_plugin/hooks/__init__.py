from .aqr_monitor_hook import AQRMonitorHook  # noqa: F401
from .bias_strength_warmup_hook import BiasStrengthWarmupHook  # noqa: F401
from .fp16_optimizer_hook import CustomFp16OptimizerHook  # noqa: F401
from .nonfinite_loss_hook import NonFiniteLossHook  # noqa: F401
from .rng_state_hook import RNGStateHook  # noqa: F401
from .transform_epoch_hook import TransformEpochHook  # noqa: F401
