import numpy as np
from mmdet.datasets.builder import PIPELINES


@PIPELINES.register_module()
class ModalMask3D:
    """Silence one sensor (CMT, ICCV 2023, "masked-modal training").

    Silenced images are all zero (before normalisation). Silenced points keep their number and have all their values
    zero, so that they collapse to the origin; an empty cloud is another failure.

    Args:
        mode (str): 'train': with u uniform in [0, 1), images are silenced if u > 0.75, points if 0.5 < u <= 0.75.
            'test': always the sensor ``mask_modal``.
        mask_modal (str): 'image' or 'points'; read in mode 'test' only.

    Raises:
        ValueError: if an argument has another value.
    """

    def __init__(self, mode='test', mask_modal='image'):
        if mode not in ('train', 'test'):
            raise ValueError(f"mode must be 'train' or 'test', got {mode!r}")
        if mask_modal not in ('image', 'points'):
            raise ValueError(f"mask_modal must be 'image' or 'points', got {mask_modal!r}")
        self.mode = mode
        self.mask_modal = mask_modal

    def __call__(self, results):
        modal = self._draw() if self.mode == 'train' else self.mask_modal
        if modal == 'image':
            results['img'] = [np.zeros_like(img) for img in results['img']]
        elif modal == 'points':
            points = results['points']
            results['points'] = points.new_point(points.tensor.new_zeros(points.shape))
        return results

    @staticmethod
    def _draw():
        """'image', 'points' or None (both sensors work)."""
        draw = np.random.rand()
        if draw > 0.75:
            return 'image'
        return 'points' if draw > 0.5 else None

    def __repr__(self):
        return f'{type(self).__name__}(mode={self.mode!r}, mask_modal={self.mask_modal!r})'
