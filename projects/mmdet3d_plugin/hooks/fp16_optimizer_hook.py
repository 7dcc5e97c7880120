"""Mixed-precision training with parts of the model kept in full precision."""
from mmcv.runner.hooks import HOOKS, Fp16OptimizerHook, OptimizerHook

from .bare_model import bare_model


@HOOKS.register_module()
class CustomFp16OptimizerHook(Fp16OptimizerHook):
    """mmcv's fp16 optimizer hook with a switch per submodule.

    fp16 needs an accelerator. A model whose parameters lie on the CPU is trained in fp32, which the log says once: no
    module is switched to fp16, no loss is scaled and no loss-scaler state enters the checkpoints, so that they resume
    on an accelerator with a fresh scaler.

    Args:
        custom_fp16 (dict[str, bool], optional): Submodule name (dotted for nested ones) -> value of its
            ``fp16_enabled``, set after every other module was switched on.
        **kwargs: Arguments of :class:`mmcv.runner.Fp16OptimizerHook` (``grad_clip``, ``loss_scale``, ...).

    Raises:
        TypeError: if ``custom_fp16`` is not a dict of bools.
        ValueError: before the run, if a name is no submodule of the model.
    """

    def __init__(self, custom_fp16=None, **kwargs):
        super().__init__(**kwargs)
        custom_fp16 = {} if custom_fp16 is None else custom_fp16
        if not isinstance(custom_fp16, dict) or not all(isinstance(flag, bool) for flag in custom_fp16.values()):
            raise TypeError(f'custom_fp16 must map submodule names to True or False, got {custom_fp16!r}')
        self.custom_fp16 = custom_fp16
        self._fp32_hook = None

    def before_run(self, runner):
        """Switch modules to fp16 and restore the loss scaler, or fall back to fp32 on the CPU."""
        model = bare_model(runner)
        overrides = [(_submodule(model, name), flag) for name, flag in self.custom_fp16.items()]
        if all(parameter.device.type == 'cpu' for parameter in model.parameters()):
            runner.logger.warning(f'{type(self).__name__}: the model is on the CPU, where fp16 training is not '
                                  'available; training in fp32 without loss scaling')
            self._fp32_hook = OptimizerHook(grad_clip=self.grad_clip)
            return
        super().before_run(runner)
        for module, flag in overrides:
            module.fp16_enabled = flag

    def after_train_iter(self, runner):
        """One backward pass and optimizer step on ``runner.outputs['loss']``."""
        if self._fp32_hook is None:
            super().after_train_iter(runner)
        else:
            self._fp32_hook.after_train_iter(runner)


def _submodule(model, name):
    """``model.get_submodule`` whose error lists what exists where the path breaks off."""
    found = []
    for part in name.split('.'):
        children = dict(model.named_children())
        if part not in children:
            where = '.'.join(found) or type(model).__name__
            raise ValueError(f'custom_fp16 names {name!r}, but {where} has no submodule {part!r}; '
                             f'it has {sorted(children)}')
        model = children[part]
        found.append(part)
    return model
