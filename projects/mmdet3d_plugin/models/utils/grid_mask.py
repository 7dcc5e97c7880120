"""GridMask augmentation for batches of images."""
import numpy as np
from PIL import Image
from torch import nn


class GridMask(nn.Module):
    """Blank a grid of squares or stripes, the same for every image of a batch (Chen et al., arXiv 2001.04086).

    Randomness comes from numpy's global generator: one uniform draw (apply or not), the grid period in [2, H), the
    offsets of rows and columns, the rotation, and, with ``offset``, the noise. In evaluation mode images pass
    unchanged and nothing is drawn.

    Args:
        use_h (bool): Whether the grid has horizontal stripes.
        use_w (bool): Whether the grid has vertical stripes.
        rotate (int): The rotation is drawn from the integer degrees [0, rotate).
        offset (bool): Whether blanked pixels get uniform noise in [-1, 1) instead of 0.
        ratio (float): Stripe width as a fraction of the period, in [0, 1].
        mode (int): 0 blanks the stripes; 1 keeps them and blanks what lies between.
        prob (float): Probability that a batch is masked.

    Raises:
        ValueError: for arguments outside these ranges.
    """

    def __init__(self, use_h, use_w, rotate=1, offset=False, ratio=0.5, mode=0, prob=1.):
        super().__init__()
        if rotate != int(rotate) or rotate < 1:
            raise ValueError(f'rotate must be an integer >= 1, got {rotate!r}')
        if mode not in (0, 1):
            raise ValueError(f'mode must be 0 or 1, got {mode!r}')
        for name, value in (('ratio', ratio), ('prob', prob)):
            if not 0 <= value <= 1:
                raise ValueError(f'{name} must lie in [0, 1], got {value!r}')
        self.use_h = use_h
        self.use_w = use_w
        self.rotate = rotate
        self.offset = offset
        self.ratio = ratio
        self.mode = mode
        self.prob = prob

    def forward(self, x):
        """Mask images (N, C, H, W), H >= 3; the result has their shape, dtype and device."""
        if not self.training:
            return x
        height, width = x.shape[-2:]
        if height < 3:
            raise ValueError(f'GridMask needs images of at least 3 rows, got shape {tuple(x.shape)}')
        if np.random.rand() > self.prob:
            return x
        keep = x.new_tensor(self._draw_keep_mask(height, width))    # (H, W), 1 where pixels stay
        masked = x * keep
        if self.offset:
            noise = x.new_tensor(2 * np.random.rand(height, width) - 1)
            masked = masked + noise * (1 - keep)
        return masked

    def _draw_keep_mask(self, height, width):
        # Drawn half as large again as the image, so that a small rotation leaves no corner uncovered.
        canvas = (int(1.5 * height), int(1.5 * width))
        period = np.random.randint(2, height)
        thickness = min(max(int(period * self.ratio + 0.5), 1), period - 1)
        starts = np.random.randint(period), np.random.randint(period)
        rows, columns = (
            used & _stripes(length, period, start, thickness)
            for used, length, start in zip((self.use_h, self.use_w), canvas, starts))
        keep = ~(rows[:, None] | columns)       # (1.5 H, 1.5 W)
        angle = np.random.randint(self.rotate)
        if angle:
            keep = np.asarray(Image.fromarray(keep.astype(np.uint8)).rotate(angle)).astype(bool)
        top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
        keep = keep[top:top + height, left:left + width]
        return ~keep if self.mode == 1 else keep


def _stripes(length, period, start, thickness):
    """(length,) bool: whole periods counted from ``start``, the first ``thickness`` cells of each set."""
    steps = np.arange(length) - start
    return (steps >= 0) & (steps % period < thickness) & (steps // period < length // period)
