"""Sensors that are stuck and show another time or place, plausible in itself."""
from dataclasses import dataclass

import mmcv
import numpy as np

from .registry import register_failure
from .view_choice import ViewChoice

_STEPS = {1: 1, 2: 4, 3: None}  # severity -> keyframes back; None: another scene
_STUCK_SHARE = {1: 0.2, 2: 0.4, 3: 0.6}


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
        if not lost.any():
            return dict(views_lost=lost)
        other, found = _other_sample(results, _STEPS[self.severity], rng)
        _show_views(results, other, lost)
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
        other, found = _other_sample(results, _STEPS[self.severity], rng)
        _show_cloud(results, other)
        return dict(lidar_everywhere=True, details=dict(stale_lidar=found))


@register_failure('temporal_misalignment', severities=tuple(_STUCK_SHARE))
@dataclass(frozen=True)
class TemporalMisalignment:
    """LiDAR and each view, each with a probability of 20, 40 or 60 %, show the previous keyframe (MultiCorrupt).

    Where none does, the sample is as it was: ``temporal_misalignment`` of the record's details says who is ``stuck``.
    See :func:`_other_sample` for samples without such a keyframe.
    """

    needs = ('points', 'img', 'other_samples')
    severity: int

    def apply(self, results, rng):
        stuck = rng.random(1 + len(results['img'])) < _STUCK_SHARE[self.severity]
        said = dict(stuck=['lidar'] * int(stuck[0]) + np.flatnonzero(stuck[1:]).tolist())
        found = dict(views_lost=stuck[1:], details=dict(temporal_misalignment=said))
        if stuck.any():
            other, what = _other_sample(results, 1, rng)
            said.update(what)
            _show_views(results, other, stuck[1:])
        if stuck[0]:
            _show_cloud(results, other)
            found['lidar_everywhere'] = True
        return found


def _other_sample(results, steps, rng):
    """The sample that a stuck sensor shows: so many keyframes earlier, or with None of another scene.

    Where there is no such keyframe, the nearest thing that is as stale takes its place, and the record says so: for an
    earlier keyframe one as many steps later, then the most distant one of the scene, then another scene; for another
    scene the most distant keyframe of this one. With a single frame there is neither: None stands for this frame looked
    at backward.

    Returns:
        tuple[dict | None, dict]: the sample; its ``sample`` token, how many ``seconds`` it is older (None for another
        scene, below 0 for younger), and ``fallback``, whether it is a replacement.
    """
    others = results['other_samples']
    if steps is None:
        ways = lambda: others.of_another_scene(rng), others.most_distant
    else:
        ways = (lambda: others.earlier(steps), lambda: others.earlier(-steps), others.most_distant,
                lambda: others.of_another_scene(rng))
    for way in ways:
        found = way()
        if found is not None:
            sample, seconds = found
            return sample, dict(sample=sample['sample_idx'], seconds=seconds, fallback=way is not ways[0])
    return None, dict(sample=results['sample_idx'], seconds=None, fallback=True)


def _show_views(results, other, stuck):
    """Views of a bool mask (V,) show what those of another sample show; of None: of this one, the other way round."""
    images = _turned_images(results['img']) if other is None else _images_of_same_cameras(results, other)
    results['img'] = [_resized(stale, own) if is_stuck else own
                      for stale, own, is_stuck in zip(images, results['img'], stuck)]


def _images_of_same_cameras(results, other):
    """Images of another sample in the order of this one's cameras; where those have no names, their places count."""
    names, others = (list(sample.get('camera_names', range(len(sample['img'])))) for sample in (results, other))
    if sorted(names) != sorted(others):
        raise ValueError(f'{other["sample_idx"]} has the views {others}, the sample {names}: its images cannot stand '
                         'in for stale ones')
    return [other['img'][others.index(name)] for name in names]


def _show_cloud(results, other):
    """The cloud and its rings are those of another sample; of None: of this one, turned round."""
    if other is None:
        results['points'] = results['points'].clone()
        results['points'].tensor[:, :2] *= -1
        return
    results['points'] = other['points']
    if 'rings' in results:
        results['rings'] = other['rings']


def _turned_images(images):
    """Each view shows what the opposite one sees; a single one is mirrored."""
    half = len(images) // 2
    return images[half:] + images[:half] if half else [image[:, ::-1].copy() for image in images]


def _resized(image, like):
    if image.shape != like.shape:
        image = mmcv.imresize(image, (like.shape[1], like.shape[0]))
    return np.ascontiguousarray(image, dtype=like.dtype)
