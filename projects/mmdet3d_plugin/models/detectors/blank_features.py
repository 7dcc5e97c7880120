"""What a detector's branches see of sensors that show nothing: the features of stand-ins
(docs/design.md, "Stand-ins")."""
import numpy as np
import torch

from ..utils.evaluating import evaluating
from ..utils.remembered import Remembered, tensors_state


class BlankFeatures:
    """Features of black images and of an empty cloud, computed anew whenever weights of the branches change, or the
    detector goes from training to evaluation or back, when hooks exchange weights unseen (EMA); not after other writes
    to ``weight.data``, which torch does not count.

    Images are black before normalization, as CMT's masked-modal training has them. Points are as that training has
    them, all at the origin ('origin'), or there are none ('none'). BatchNorm uses its running statistics, no image is
    masked, and no gradient flows.

    Args:
        points (str): 'origin' or 'none'.
    """

    def __init__(self, points):
        self.points = points
        self._remembered = Remembered()

    @torch.no_grad()
    def __call__(self, detector, cloud, img, img_metas):
        """Blank features for a batch.

        Args:
            detector (CmtDetector): with both branches.
            cloud (Tensor): (N, D) any points of the batch, for their number of values.
            img (Tensor): (B, V, 3, H, W) the batch's images, for their size.
            img_metas (list[dict]): B dicts with ``img_norm_cfg``.

        Returns:
            tuple[list[Tensor], list[Tensor]]: camera features (B * V, C, h, w) and BEV features (B, C, H, W).

        Raises:
            ValueError: if ``img_metas`` do not say how images were normalized, or samples differ in it.
        """
        black = _black_image(img, img_metas)

        def make():
            points = cloud.new_zeros(detector.pts_voxel_layer.max_num_points if self.points == 'origin' else 0,
                                     cloud.shape[1])
            with evaluating(detector):
                return detector.extract_feat([points], black[None, None], [dict(img_metas[0])])

        inputs = cloud.shape[1], cloud.device, black.shape, black[:, 0, 0].tolist()
        features = self._remembered((_branches_state(detector), detector.training, inputs), make)
        views = img.shape[0] * img.shape[1]
        return tuple([level.expand(count, *level.shape[1:]) for level in levels]
                     for levels, count in zip(features, (views, img.shape[0])))


def _black_image(img, img_metas):
    """(3, H, W) a black image as normalization and padding leave it."""
    if any(meta.get('img_norm_cfg') is None for meta in img_metas):
        raise ValueError("img_metas lack 'img_norm_cfg', which says what a black image is after normalization: it must "
                         'be among the meta_keys of Collect3D')
    levels = [-meta['img_norm_cfg']['mean'] / meta['img_norm_cfg']['std'] for meta in img_metas]
    if any((level != levels[0]).any() for level in levels):
        raise ValueError('img_metas: images of a batch must be normalized alike for one black image to stand for all, '
                         f'got levels of black of {[level.tolist() for level in levels]}')
    level = torch.as_tensor(levels[0], dtype=img.dtype, device=img.device)
    shape = img_metas[0].get('img_shape', img.shape[-2:])
    height, width = (shape[0] if np.ndim(shape[0]) else shape)[:2]  # a list of shapes, or one for all
    black = img.new_zeros(3, *img.shape[-2:])
    black[:, :height, :width] = level.view(3, 1, 1)
    return black


def _branches_state(detector):
    """Changes whenever a parameter or a statistic of the branches does."""
    return tensors_state(tensor for name, tensor in (*detector.named_parameters(), *detector.named_buffers())
                         if not name.startswith('pts_bbox_head'))
