from .checkpoint import load_weights, read_checkpoint  # noqa: F401
from .config import load_config  # noqa: F401
from .publish import publish_checkpoint  # noqa: F401
from .test import build_trained_model, evaluate_results, run_test  # noqa: F401
from .train import train_detector  # noqa: F401
from .train_router import train_router  # noqa: F401
