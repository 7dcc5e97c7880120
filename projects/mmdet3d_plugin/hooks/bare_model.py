"""What a runner trains, without wrappers."""
from mmcv.parallel import is_module_wrapper


def bare_model(runner):
    """The module inside data-parallel wrappers, however many."""
    model = runner.model
    while is_module_wrapper(model):
        model = model.module
    return model


def optimizers(runner):
    """list: the optimizers of a runner, which has one or a dict of them."""
    return list(runner.optimizer.values()) if isinstance(runner.optimizer, dict) else [runner.optimizer]
