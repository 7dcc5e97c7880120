from .bias_report import write_bias_report  # noqa: F401
from .figures import LINE_STYLES  # noqa: F401
from .frame_pictures import draw_bev, draw_cameras  # noqa: F401
from .plots import draw_ablation, draw_growth, draw_sweep, draw_training_curves  # noqa: F401
