"""Other keyframes of a data set, for failures that show a sample what belongs to another one."""
import copy
import os.path as osp

import numpy as np

_LARGEST_GAP = 1.0  # s between keyframes of one scene; nuScenes has one every half second


class OtherSamples:
    """The other keyframes of a data set, loaded as the sample itself was, seen from one of them.

    Keyframes of one scene come from one log and follow each other within a second; an info file with ``scene_token`` in
    its records says it itself. Sweeps are the newest ones, in training, too: what a failure does must not depend on
    what else was drawn.

    Args:
        dataset (CustomNuScenesDataset | FrameFolderDataset): with a pipeline.
        index (int): of the sample.
    """

    def __init__(self, dataset, index):
        self._dataset, self._index = dataset, index

    def __deepcopy__(self, memo):
        return self  # transforms that copy a sample must not copy the data set

    def earlier(self, steps):
        """The keyframe so many steps earlier in the scene; where that begins later, the most distant one in time.

        Returns:
            tuple[dict, float] | None: the sample and how many seconds it is older (below 0: younger); None where the
            scene has no other keyframe.
        """
        scenes, times = _scenes_and_times(self._dataset)
        own = times[self._index]
        same = np.flatnonzero((scenes == scenes[self._index]) & (times != own))
        if not len(same):
            return None
        before = same[times[same] < own]
        before = before[np.argsort(-times[before], kind='stable')]
        index = before[steps - 1] if len(before) >= steps else same[np.argmax(np.abs(times[same] - own))]
        return self._load(int(index)), float(own - times[index])

    def of_another_scene(self, rng):
        """A random keyframe of another scene.

        Returns:
            dict | None: the sample; None where the data set has one scene only.
        """
        scenes, _ = _scenes_and_times(self._dataset)
        others = np.flatnonzero(scenes != scenes[self._index])
        return self._load(int(rng.choice(others))) if len(others) else None

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


def _scenes_and_times(dataset):
    """Scene numbers (N,) and time stamps (N,) in s of the samples of a data set, kept with its list of records."""
    kept = getattr(dataset, '_scenes_and_times', None)
    if kept is not None and kept[0] is dataset.data_infos:
        return kept[1]
    infos = dataset.data_infos
    times = np.array([_seconds(info, index) for index, info in enumerate(infos)])
    logs = [str(info.get('scene_token') or osp.basename(_lidar_path(info)).split('__')[0]) for info in infos]
    is_named = np.array(['scene_token' in info for info in infos])
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


def _lidar_path(info):
    return info['lidar_path'] if 'lidar_path' in info else info['lidar_points']['lidar_path']


def _seconds(info, index):
    """Time stamp in s; nuScenes' records count microseconds, those of format 1.1 seconds. Frames without lie apart."""
    time = info.get('timestamp')
    if time is None:
        return index * 1e3
    return time / 1e6 if time > 1e12 else float(time)
