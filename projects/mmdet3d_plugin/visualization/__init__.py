from .ablation_plot import draw_ablation  # noqa: F401
from .bias_report import write_bias_report  # noqa: F401
from .frame_pictures import draw_bev, draw_cameras  # noqa: F401
from .growth_plot import draw_growth  # noqa: F401
from .line_styles import LINE_STYLES  # noqa: F401
from .sweep_plot import draw_sweep  # noqa: F401
from .training_curves import draw_training_curves  # noqa: F401
