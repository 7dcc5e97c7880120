"""Other keyframes of a data set, for failures that show a sample what belongs to another one."""
import copy
import os.path as osp
from functools import cached_property
from typing import Dict, List, NamedTuple

import numpy as np

_LARGEST_GAP = 1.0  # s between keyframes of one scene; nuScenes has one every half second


class OtherSamples:
    """The other keyframes of a data set, loaded as the sample itself was, seen from one of them.

    Keyframes of one scene come from one log, which nuScenes' file names tell, and follow each other within a second; an
    info file with ``scene_token`` in its records says it itself. Frames without time stamps are scenes of their own.
    Sweeps are the newest ones, in training, too: what a failure does must not depend on what else was drawn. Keyframes
    that ``load_interval`` leaves out are there: a failure is the same in a part of the set as in the whole.

    Methods return a sample and how many seconds it is older (below 0: younger; None: of another scene), or None where
    there is no such sample.

    Args:
        dataset (CustomNuScenesDataset | FrameFolderDataset): with a pipeline.
        index (int): of the sample.
    """

    def __init__(self, dataset, index):
        self._dataset, self._number = dataset, index

    @cached_property
    def _all(self):
        return _keyframes(self._dataset)  # only when a failure asks: most samples need none

    @property
    def _index(self):
        return self._all.places[self._number]

    def __deepcopy__(self, memo):
        return self  # transforms that copy a sample must not copy the data set

    def earlier(self, steps):
        """The keyframe so many steps earlier in the scene, or later for a number below 0.

        Returns:
            tuple[dict, float] | None
        """
        scenes, times = self._all.scenes, self._all.times
        same = np.flatnonzero(scenes == scenes[self._index])
        moments = np.unique(times[same])
        place = np.searchsorted(moments, times[self._index]) - steps
        if not 0 <= place < len(moments):
            return None
        return self._with_age(same[times[same] == moments[place]][0])

    def most_distant(self):
        """The keyframe of the scene that is farthest away in time.

        Returns:
            tuple[dict, float] | None
        """
        scenes, times = self._all.scenes, self._all.times
        distance = np.where(scenes == scenes[self._index], np.abs(times - times[self._index]), 0)
        index = distance.argmax()
        return self._with_age(index) if distance[index] else None

    def of_another_scene(self, rng):
        """A random keyframe of another scene.

        Returns:
            tuple[dict, None] | None
        """
        others = np.flatnonzero(self._all.scenes != self._all.scenes[self._index])
        return (self._load(int(rng.choice(others))), None) if len(others) else None

    def _with_age(self, index):
        return self._load(int(index)), float(self._all.times[self._index] - self._all.times[index])

    def _load(self, index):
        dataset = copy.copy(self._dataset)
        dataset.data_infos = self._all.records
        sample = dataset.get_data_info(index)
        sample.pop('other_samples', None)
        dataset.pre_pipeline(sample)
        for transform in self._dataset.pipeline.transforms:
            name = type(transform).__name__
            if name == 'SimulateFailure':
                break
            if not name.startswith('Load') or name == 'LoadAnnotations3D':
                continue
            if getattr(transform, 'test_mode', True) is False:
                transform = copy.copy(transform)
                transform.test_mode = True
            sample = transform(sample)
        return sample


def needs_other_samples(dataset):
    """Whether a transform of the data set's pipeline needs them."""
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    return any('other_samples' in getattr(transform, 'needs', ()) for transform in transforms)


def scene_numbers(dataset):
    """Scene numbers (N,) of the samples of a data set with ``data_infos``, or of one that repeats, balances or joins
    such (RepeatDataset, CBGSDataset, ConcatDataset); see :class:`OtherSamples` for how scenes are told apart.
    """
    if hasattr(dataset, 'data_infos'):
        keyframes = _keyframes(dataset)
        return keyframes.scenes[keyframes.places]
    if hasattr(dataset, 'datasets'):
        parts = [scene_numbers(part) for part in dataset.datasets]
        ends = np.cumsum([0, *(part.max() + 1 for part in parts)])
        return np.concatenate([part + end for part, end in zip(parts, ends)])
    inner = scene_numbers(dataset.dataset)
    order = getattr(dataset, 'sample_indices', None)
    return inner[np.arange(len(dataset)) % len(inner)] if order is None else inner[np.asarray(order)]


class _Keyframes(NamedTuple):
    """All keyframes of a data set, also those that ``load_interval`` leaves out.

    Attributes:
        records: K.
        scenes: (K,) numbers.
        times: (K,) in s.
        places: (N,) of the data set's samples among them.
    """

    records: List[Dict]
    scenes: np.ndarray
    times: np.ndarray
    places: np.ndarray


def _keyframes(dataset):
    """_Keyframes of a data set, kept with its list of samples."""
    infos = dataset.data_infos
    kept = getattr(dataset, '_kept_keyframes', None)
    if kept is not None and kept[0] is infos:
        return kept[1]
    records = getattr(dataset, 'all_infos', infos)
    place_of = {id(record): place for place, record in enumerate(records)}
    if not all(id(info) in place_of for info in infos):  # the samples were exchanged
        records, place_of = infos, {id(info): place for place, info in enumerate(infos)}
    times = _times(records)
    keyframes = _Keyframes(records, _scenes(records, times), times,
                           np.array([place_of[id(info)] for info in infos], dtype=int))
    dataset._kept_keyframes = infos, keyframes
    return keyframes


def _scenes(infos, times):
    """(K,) scene numbers."""
    logs = [str(info.get('scene_token', _log(info))) for info in infos]
    is_named = ['scene_token' in info for info in infos]
    scenes, number = np.zeros(len(infos), dtype=int), -1
    order = sorted(range(len(infos)), key=lambda i: (logs[i], times[i]))
    for previous, index in zip([None, *order], order):
        follows = previous is not None and logs[previous] == logs[index] and (
            is_named[index] or times[index] - times[previous] <= _LARGEST_GAP)
        number += not follows
        scenes[index] = number
    return scenes


def _times(infos):
    """(N,) time stamps in s; nuScenes' records (format 1.0) count microseconds, those of format 1.1 seconds.

    Frames without one lie far apart, but records of the same frame (``repeat``) do not.
    """
    frames, times = {}, []
    for info in infos:
        number = frames.setdefault(info.get('token', info.get('sample_idx', _lidar_path(info))), len(frames))
        seconds = info.get('timestamp', 0) / (1e6 if 'lidar_path' in info else 1)
        times.append(seconds if 'timestamp' in info else 1e3 * number)
    return np.array(times, dtype=float)


def _log(info):
    """Name of the log, with which nuScenes' file names begin; '' for other names."""
    log, separator, _ = osp.basename(_lidar_path(info)).partition('__')
    return log if separator else ''


def _lidar_path(info):
    return info['lidar_path'] if 'lidar_path' in info else info['lidar_points']['lidar_path']
