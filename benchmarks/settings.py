"""The sizes that a benchmark can be run at. Nothing here imports torch: the command line is parsed with it."""
from dataclasses import dataclass
from typing import Tuple


@dataclass(frozen=True)
class Scale:
    """What a published config turns a sample into.

    Attributes:
        config: file in configs/.
        bev_shape: (H, W) of the BEV map.
        view_shape: (V, h, w) of the camera features, whose cells are 16 pixels wide.
        points: LiDAR points of a sample, about as many as nuScenes has in one sweep.
    """

    config: str
    bev_shape: Tuple[int, int]
    view_shape: Tuple[int, int, int]
    points: int = 30000


# tokens (H * W + V * h * w) -> the published config that has so many
SCALES = {
    22384: Scale('cmt_aqr_voxel0100_r50_800x320_cbgs.py', (128, 128), (6, 20, 50)),
    56400: Scale('cmt_aqr_voxel0075_vov_1600x640_cbgs.py', (180, 180), (6, 40, 100)),
}


@dataclass(frozen=True)
class Settings:
    """The size of one measurement.

    Attributes:
        tokens: keys of the cross-attention, a key of SCALES.
        batch: samples.
        queries: learned queries of each sample.
    """

    tokens: int = 22384
    batch: int = 1
    queries: int = 900

    @property
    def scale(self):
        """Scale: what the tokens are made of."""
        return SCALES[self.tokens]
