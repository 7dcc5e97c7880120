from .fp16_optimizer_hook import CustomFp16OptimizerHook  # noqa: F401
from .rng_state_hook import RNGStateHook  # noqa: F401
