"""The attention bias sets in slowly."""
from mmcv.runner import HOOKS, Hook

from .bare_model import bare_model


@HOOKS.register_module()
class BiasStrengthWarmupHook(Hook):
    """Raise the attention bias linearly from nothing to its full strength over the first iterations of training.

    It follows the runner's iteration, so that a resumed run goes on where the interrupted one was. Evaluation in
    between uses the strength reached; a model that was built anew has full strength.

    Args:
        iters (int): iterations until full strength, >= 1.

    Raises:
        ValueError: for ``iters`` below 1; before the run, if the model's head routes no queries.
    """

    def __init__(self, iters):
        if not isinstance(iters, int) or isinstance(iters, bool) or iters < 1:
            raise ValueError(f'iters must be an integer >= 1, got {iters!r}')
        self.iters = iters

    def before_run(self, runner):
        if not hasattr(self._head(runner), 'aqr_bias'):
            raise ValueError('BiasStrengthWarmupHook needs a model with model.pts_bbox_head.enable_aqr=True')

    def before_train_iter(self, runner):
        self._head(runner).aqr_bias.strength_factor = min(1.0, (runner.iter + 1) / self.iters)

    @staticmethod
    def _head(runner):
        return getattr(bare_model(runner), 'pts_bbox_head', None)
