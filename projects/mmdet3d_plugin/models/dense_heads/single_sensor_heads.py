"""The heads that CMT's published LiDAR-only and camera-only configs name."""
from mmdet.models import HEADS

from .cmt_head import CmtHead


class _SingleSensorHead(CmtHead):
    """:class:`CmtHead` without the part of the sensor that it does not have, as in published checkpoints.

    Raises:
        ValueError: for ``enable_aqr=True``: with one sensor there is nothing to route.
    """

    sensor, unused = None, None

    def __init__(self, *args, **kwargs):
        if kwargs.get('enable_aqr'):
            raise ValueError(f'enable_aqr=True weighs LiDAR against cameras, but {type(self).__name__} takes '
                             f'{self.sensor} alone; allowed in CmtHead on models with both')
        super().__init__(*args, **kwargs)
        setattr(self, self.unused, None)

    def _refuse(self, name, features):
        if features is not None and features[0] is not None:
            raise ValueError(f'{type(self).__name__} takes {self.sensor} alone, got {name}; CmtHead takes both')


@HEADS.register_module()
class CmtLidarHead(_SingleSensorHead):
    """CMT's head of LiDAR alone: queries know their place in BEV only, whatever calibrations samples have.

    Args:
        *args, **kwargs: see :class:`CmtHead`.

    Raises:
        ValueError: for ``enable_aqr=True``; in :meth:`forward` for camera features.
    """

    sensor, unused = 'LiDAR', 'rv_embedding'

    def forward(self, pts_feats, img_feats=None, img_metas=None, blank_feats=None):
        """See :meth:`CmtHead.forward`; ``img_feats`` must be None."""
        self._refuse('img_feats', img_feats)
        return super().forward(pts_feats, None, img_metas, blank_feats)

    def _cameras(self, img_metas, like, layout):
        return None


@HEADS.register_module()
class CmtImageHead(_SingleSensorHead):
    """CMT's head of cameras alone.

    Args:
        *args, **kwargs: see :class:`CmtHead`.

    Raises:
        ValueError: for ``enable_aqr=True``; in :meth:`forward` for BEV features.
    """

    sensor, unused = 'cameras', 'shared_conv'

    def forward(self, pts_feats, img_feats=None, img_metas=None, blank_feats=None):
        """See :meth:`CmtHead.forward`; ``pts_feats`` must be None."""
        self._refuse('pts_feats', pts_feats)
        return super().forward(None, img_feats, img_metas, blank_feats)
