import numpy as np
from mmdet.datasets.builder import PIPELINES


@PIPELINES.register_module()
class ModalMask3D:
    """Silence one sensor (CMT, ICCV 2023, "masked-modal training").

    Silenced images are all zero (before normalization). Silenced points keep their number and have all their values
    zero, so that they collapse to the origin; they do not make an empty cloud (see :class:`SimulateFailure` for that).

    Args:
        mode (str): 'train': at random, by ``shares``. 'test': always the sensor ``mask_modal``.
        mask_modal (str): 'image' or 'points'; read in mode 'test' only.
        shares (Sequence[float]): share of samples that lose their images and share of those that lose their points, in
            [0, 1], together at most 1; read in mode 'train' only. CMT's: a quarter each.

    Raises:
        ValueError: if an argument has another value.
    """

    def __init__(self, mode='test', mask_modal='image', shares=(0.25, 0.25)):
        if mode not in ('train', 'test'):
            raise ValueError(f"mode must be 'train' or 'test', got {mode!r}")
        if mask_modal not in ('image', 'points'):
            raise ValueError(f"mask_modal must be 'image' or 'points', got {mask_modal!r}")
        if len(shares) != 2 or min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f'shares must be two numbers >= 0 with a sum of at most 1, got {shares!r}')
        self.mode = mode
        self.shares = tuple(shares)
        self.mask_modal = mask_modal

    def __call__(self, results):
        modal = self._draw() if self.mode == 'train' else self.mask_modal
        if modal == 'image':
            results['img'] = [np.zeros_like(img) for img in results['img']]
        elif modal == 'points':
            points = results['points']
            results['points'] = points.new_point(points.tensor.new_zeros(points.shape))
        return results

    def _draw(self):
        """'image', 'points' or None (both sensors work)."""
        without_images, without_points = self.shares
        draw = np.random.rand()
        if draw > 1 - without_images:
            return 'image'
        return 'points' if draw > 1 - without_images - without_points else None

    def __repr__(self):
        return f'{type(self).__name__}(mode={self.mode!r}, mask_modal={self.mask_modal!r}, shares={self.shares})'
