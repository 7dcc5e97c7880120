import numpy as np
from mmdet.datasets.builder import PIPELINES

from .point_files import LoadPointsFromMultiSweeps


@PIPELINES.register_module()
class LoadPointsFromMultiSweepsWithRings(LoadPointsFromMultiSweeps):
    """:class:`LoadPointsFromMultiSweeps` that also keeps the LiDAR ring of each point.

    The parent overwrites the ring, the last of nuScenes' five values of a point, with the time lag. This class loads
    the same points and adds ``rings`` (N,) int64, which simulated beam reduction needs.

    Args:
        **kwargs: See the parent; ``load_dim`` and ``time_dim`` as for nuScenes' files: 5 values, the last is replaced.

    Raises:
        ValueError: for other ``load_dim`` or ``time_dim``, or if the keyframe was loaded without the ring.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if self.load_dim != 5 or self.time_dim != 4:
            raise ValueError('load_dim must be 5 and time_dim 4 to find the ring in the last value of a point, got '
                             f'{self.load_dim} and {self.time_dim}')
        # The parent is given points of six values and leaves the last one, a copy of the ring, alone.
        self.load_dim = 6
        self.use_dim = [*self.use_dim, 5]

    def _load_points(self, pts_filename):
        points = super()._load_points(pts_filename)  # (N, 5)
        return np.concatenate([points, points[:, 4:]], axis=1)  # (N, 6)

    def __call__(self, results):
        points = results['points']
        if points.shape[1] != 5:
            raise ValueError('points must have five values, the last of which is the ring: LoadPointsFromFile with '
                             f'use_dim=[0, 1, 2, 3, 4]; got {points.shape[1]}')
        tensor = points.tensor
        results['points'] = type(points)(
            tensor[:, [0, 1, 2, 3, 4, 4]], points_dim=6, attribute_dims=points.attribute_dims)
        results = super().__call__(results)
        points = results['points']
        results['rings'] = points.tensor[:, -1].numpy().astype(np.int64)
        results['points'] = points[:, list(range(points.shape[1] - 1))]
        return results
