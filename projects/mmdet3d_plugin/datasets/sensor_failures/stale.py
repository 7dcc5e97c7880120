"""Sensors that are stuck and show another time or place, plausible in itself."""
from dataclasses import dataclass

import mmcv
import numpy as np

from .registry import register_failure
from .view_choice import ViewChoice

_STEPS = {1: 1, 2: 4, 3: None}  # severity -> keyframes back; None: another scene
_FARTHEST = 10**6               # keyframes: more than any scene has


@register_failure('stale_views', 'stale_views:3 (random views), stale_views:CAM_FRONT,CAM_BACK or stale_views (all)',
                  lambda views='all', *, severity: StaleViews(ViewChoice.parse(views), severity), tuple(_STEPS))
@dataclass(frozen=True)
class StaleViews:
    """Views show the previous keyframe (1), that of two seconds ago (2) or another scene (3); calibration stays.

    See :func:`_other_sample` for samples without such a keyframe.
    """

    views: ViewChoice
    severity: int

    @property
    def needs(self):
        return (*self.views.needs, 'other_samples')

    def apply(self, results, rng):
        lost = self.views.choose(results, rng)
        other, found = _other_sample(results, self.severity, rng)
        images = _turned_images(results['img']) if other is None else other['img']
        if len(images) != len(lost):
            raise ValueError(f'stale_views: {found["sample"]} has {len(images)} views, the sample {len(lost)}')
        results['img'] = [_resized(stale, own) if is_lost else own
                          for stale, own, is_lost in zip(images, results['img'], lost)]
        return dict(views_lost=lost, details=dict(stale_views=found))


@register_failure('stale_lidar', severities=tuple(_STEPS))
@dataclass(frozen=True)
class StaleLidar:
    """The cloud, with its sweeps, is that of the previous keyframe (1), of two seconds ago (2) or of another scene (3).

    See :func:`_other_sample` for samples without such a keyframe.
    """

    needs = ('points', 'other_samples')
    severity: int

    def apply(self, results, rng):
        other, found = _other_sample(results, self.severity, rng)
        if other is None:
            results['points'] = results['points'].clone()
            results['points'].tensor[:, :2] *= -1
        else:
            results['points'] = other['points']
            if 'rings' in results:
                results['rings'] = other['rings']
        return dict(lidar_everywhere=True, details=dict(stale_lidar=found))


def _other_sample(results, severity, rng):
    """The sample that a stuck sensor shows.

    Where there is no such keyframe, the nearest thing that is as stale takes its place, and the record says so: for an
    earlier keyframe the most distant one of the scene, then another scene; for another scene the most distant keyframe
    of this one. With a single frame there is neither: None stands for this frame looked at backward.

    Returns:
        tuple[dict | None, dict]: the sample; its ``sample`` token, how many ``seconds`` it is older (None for another
        scene), and ``fallback``, whether it is a replacement.
    """
    others, steps = results['other_samples'], _STEPS[severity]
    wanted_scene = steps is None
    for same_scene in ((False, True) if wanted_scene else (True, False)):
        seconds = None
        if same_scene:
            sample = others.earlier(steps or _FARTHEST)
            if sample is not None:
                sample, seconds = sample
        else:
            sample = others.of_another_scene(rng)
        if sample is not None:
            return sample, dict(sample=sample['sample_idx'], seconds=seconds, fallback=same_scene == wanted_scene)
    return None, dict(sample=results['sample_idx'], seconds=None, fallback=True)


def _turned_images(images):
    """Each view shows what the opposite one sees; a single one is mirrored."""
    half = len(images) // 2
    return images[half:] + images[:half] if half else [image[:, ::-1].copy() for image in images]


def _resized(image, like):
    if image.shape != like.shape:
        image = mmcv.imresize(image, (like.shape[1], like.shape[0]))
    return np.ascontiguousarray(image, dtype=like.dtype)
