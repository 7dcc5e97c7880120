"""Cases that belong together, by a name that stands for all of them."""
from .failure_case import FailureCase

_SEVERITIES = (1, 2, 3)
_BOTH_SENSORS = ('fog', 'snow', 'motion_blur')  # of MultiCorrupt strike cameras and LiDAR at once

PRESETS = {
    'multicorrupt': (
        'beams:16', 'beams:8', 'beams:4',
        *(f'brightness@{level}' for level in _SEVERITIES),
        *(f'darkness@{level}' for level in _SEVERITIES),
        *(f'camera_{kind}@{level}+lidar_{kind}@{level}' for kind in _BOTH_SENSORS for level in _SEVERITIES),
        'view_drop:0.2', 'view_drop:0.4', 'view_drop:0.6',
        *(f'points_reduced@{level}' for level in _SEVERITIES),
        *(f'misalignment@{level}' for level in _SEVERITIES),
        *(f'temporal_misalignment@{level}' for level in _SEVERITIES)),
    'drops': (
        'lidar_drop', 'camera_drop', 'view_drop:1', 'view_drop:3', 'fov:60', 'fov:90', 'object_failure:0.5',
        'frame_object_failure:0.5', 'beams:4', 'lidar_drop+view_drop:1'),
    'lies': (
        'stale_views:2@3', 'stale_views:3@3', 'stale_views@3', 'stale_views:3@1', 'stale_lidar@3', 'stale_lidar@1',
        'lidar_turn:10', 'lidar_shift:2', 'lidar_fog@3', 'phantoms:5', 'glare@3', 'image_noise@3', 'camera_fog@3',
        'miscalibration@2'),
}
"""Case texts by name of the preset (docs/corruptions.md, "Presets")."""


def expand_cases(texts):
    """Put the cases of presets in the place of their names.

    Args:
        texts (Iterable[str | FailureCase]): cases and names of ``PRESETS``, in any order.

    Returns:
        list[str]: the cases, each once, where it came first.

    Raises:
        ValueError: for a text that is neither a case nor a preset, naming both.
    """
    cases = {}
    for text in texts:
        for case in PRESETS.get(text, (text, )):
            try:
                cases[str(FailureCase.parse(case))] = None
            except ValueError as error:
                raise ValueError(f'{error}; presets: {", ".join(PRESETS)}') from error
    return list(cases)
