from .fp16_optimizer_hook import CustomFp16OptimizerHook  # noqa: F401
