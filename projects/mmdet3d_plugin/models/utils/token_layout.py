"""Who owns the order of the attention keys: BEV cells row by row, then camera cells view by view, row by row."""
from dataclasses import dataclass
from typing import Optional, Tuple

MODALITIES = ('lidar', 'camera')  # in the order of their tokens


@dataclass(frozen=True)
class TokenLayout:
    """Shapes behind the key axis of the decoder's cross-attention (docs/design.md, "Tokens and masks").

    Attributes:
        bev_shape: (H, W) of the BEV map, None without LiDAR.
        view_shape: (V, h, w) of the camera features, None without cameras.
    """

    bev_shape: Optional[Tuple[int, int]] = None
    view_shape: Optional[Tuple[int, int, int]] = None

    @classmethod
    def from_features(cls, x, x_img, batch_size):
        """Layout of BEV features (B, C, H, W) and camera features (B * V, C, h, w); either may be None.

        Raises:
            ValueError: if both are None, or the camera features do not divide into ``batch_size`` samples.
        """
        if x is None and x_img is None:
            raise ValueError('x and x_img are both None: at least one modality is needed')
        bev_shape = view_shape = None
        if x is not None:
            if x.shape[0] != batch_size:
                raise ValueError(f'x: features of {x.shape[0]} samples in a batch of {batch_size}')
            bev_shape = tuple(x.shape[-2:])
        if x_img is not None:
            if x_img.shape[0] % batch_size:
                raise ValueError(f'x_img: {x_img.shape[0]} feature maps do not divide into {batch_size} samples')
            view_shape = (x_img.shape[0] // batch_size, *x_img.shape[-2:])
        return cls(bev_shape, view_shape)

    @property
    def num_bev(self):
        """Number of LiDAR tokens; they come first."""
        return self.bev_shape[0] * self.bev_shape[1] if self.bev_shape else 0

    @property
    def num_camera(self):
        """Number of camera tokens; they follow the LiDAR tokens."""
        return self.view_shape[0] * self.view_shape[1] * self.view_shape[2] if self.view_shape else 0

    @property
    def num_tokens(self):
        return self.num_bev + self.num_camera

    @staticmethod
    def runs(x, x_img, batch_size):
        """Features (B, C, H, W) and (B * V, C, h, w), either None -> views of the tokens, of each sensor one
        (F_s, B, C), in their order: joined, they are the tokens (F, B, C).
        """
        runs = []
        if x is not None:
            runs.append(x.flatten(2).permute(2, 0, 1))  # (H * W, B, C)
        if x_img is not None:
            views = x_img.unflatten(0, (batch_size, -1)).permute(1, 3, 4, 0, 2)  # (V, h, w, B, C)
            runs.append(views.flatten(0, 2))  # (V * h * w, B, C)
        return runs
