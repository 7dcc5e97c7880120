"""Colors of a router's preferences: green for LiDAR, purple for cameras, white for neither."""
import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize

# ColorBrewer's PRGn, told apart with all common forms of color blindness, without its ends, which are nearly black.
PREFERENCE_MAP = LinearSegmentedColormap.from_list('preference', colormaps['PRGn'](np.linspace(0.1, 0.9, 257)), N=257)
LIDAR_COLOR, CAMERA_COLOR = PREFERENCE_MAP(1.0), PREFERENCE_MAP(0.0)


def signed_norm(limit):
    """Norm from [-limit, limit] to [0, 1]; a limit of 0 counts as 1."""
    return Normalize(-(limit or 1), limit or 1)


def preference_bar(figure, axes, **options):
    """Color bar of preferences, LiDAR minus camera weight in [-1, 1], with words at both ends.

    Args:
        figure (Figure | SubFigure): to draw into.
        axes (Axes | list[Axes]): whose colors it explains.
        **options: of `figure.colorbar`.

    Returns:
        Colorbar
    """
    bar = figure.colorbar(ScalarMappable(signed_norm(1), PREFERENCE_MAP), ax=axes, **options)
    bar.set_ticks([-1, -0.5, 0, 0.5, 1],
                  labels=['−1\ncameras\nalone', '−0.5', '0\nneutral', '+0.5', '+1\nLiDAR\nalone'])
    bar.set_label('preference of a query: LiDAR weight − camera weight')
    return bar
