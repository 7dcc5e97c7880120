"""Other keyframes of a data set, for failures that show a sample what belongs to another one."""
import copy
import os.path as osp

import numpy as np

_LARGEST_GAP = 1.0  # s between keyframes of one scene; nuScenes has one every half second


class OtherSamples:
    """The other keyframes of a data set, loaded as the sample itself was, seen from one of them.

    Keyframes of one scene come from one log, which nuScenes' file names tell, and follow each other within a second; an
    info file with ``scene_token`` in its records says it itself. Frames without time stamps are scenes of their own.
    Sweeps are the newest ones, in training, too: what a failure does must not depend on what else was drawn.

    Methods return a sample and how many seconds it is older (below 0: younger; None: of another scene), or None where
    there is no such sample.

    Args:
        dataset (CustomNuScenesDataset | FrameFolderDataset): with a pipeline.
        index (int): of the sample.
    """

    def __init__(self, dataset, index):
        self._dataset, self._index = dataset, index

    def __deepcopy__(self, memo):
        return self  # transforms that copy a sample must not copy the data set

    def earlier(self, steps):
        """The keyframe so many steps earlier in the scene, or later for a number below 0.

        Returns:
            tuple[dict, float] | None
        """
        scenes, times = _scenes_and_times(self._dataset)
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
        scenes, times = _scenes_and_times(self._dataset)
        distance = np.where(scenes == scenes[self._index], np.abs(times - times[self._index]), 0)
        index = distance.argmax()
        return self._with_age(index) if distance[index] else None

    def of_another_scene(self, rng):
        """A random keyframe of another scene.

        Returns:
            tuple[dict, None] | None
        """
        scenes, _ = _scenes_and_times(self._dataset)
        others = np.flatnonzero(scenes != scenes[self._index])
        return (self._load(int(rng.choice(others))), None) if len(others) else None

    def _with_age(self, index):
        _, times = _scenes_and_times(self._dataset)
        return self._load(int(index)), float(times[self._index] - times[index])

    def _load(self, index):
        sample = self._dataset.get_data_info(index)
        sample.pop('other_samples', None)
        self._dataset.pre_pipeline(sample)
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
        return _scenes_and_times(dataset)[0]
    if hasattr(dataset, 'datasets'):
        parts = [scene_numbers(part) for part in dataset.datasets]
        ends = np.cumsum([0, *(part.max() + 1 for part in parts)])
        return np.concatenate([part + end for part, end in zip(parts, ends)])
    inner = scene_numbers(dataset.dataset)
    order = getattr(dataset, 'sample_indices', None)
    return inner[np.arange(len(dataset)) % len(inner)] if order is None else inner[np.asarray(order)]


def _scenes_and_times(dataset):
    """Scene numbers (N,) and time stamps (N,) in s of the samples of a data set, kept with its list of records."""
    kept = getattr(dataset, '_scenes_and_times', None)
    if kept is not None and kept[0] is dataset.data_infos:
        return kept[1]
    infos = dataset.data_infos
    times = _times(infos)
    logs = [str(info.get('scene_token', _log(info))) for info in infos]
    is_named = ['scene_token' in info for info in infos]
    scenes, number = np.zeros(len(infos), dtype=int), -1
    order = sorted(range(len(infos)), key=lambda i: (logs[i], times[i]))
    gap = _LARGEST_GAP * getattr(dataset, 'load_interval', 1)
    for previous, index in zip([None, *order], order):
        follows = previous is not None and logs[previous] == logs[index] and (
            is_named[index] or times[index] - times[previous] <= gap)
        number += not follows
        scenes[index] = number
    dataset._scenes_and_times = infos, (scenes, times)
    return scenes, times


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
