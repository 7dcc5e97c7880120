"""The model that a runner trains, without its wrappers."""
from mmcv.parallel import is_module_wrapper


def bare_model(runner):
    """The module inside data-parallel wrappers, however many."""
    model = runner.model
    while is_module_wrapper(model):
        model = model.module
    return model
