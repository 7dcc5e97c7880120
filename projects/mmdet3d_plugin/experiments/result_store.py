"""Test results kept in files, so that an interrupted series of tests goes on where it stopped."""
import time
from pathlib import Path

from ..apis.failing_sensors import with_modality
from ..apis.test import run_test
from ..utils.content_hash import content_key, file_sha256
from ..utils.plain_values import plain_values
from ..utils.record_file import read_record, write_record

# What a test reads of a config. Settings of training may change without making a result void.
_TEST_SETTINGS = ('model', 'test_cfg', 'fp16', 'evaluation')


def info_file(cfg, split):
    """Path of the info file of a config's `data.train` or `data.test`, wrappers looked through.

    Raises:
        ValueError: no nuScenes dataset.
    """
    dataset = cfg.data[split]
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if dataset.get('ann_file') is None:
        raise ValueError(f'data.{split} must be a nuScenes dataset, which has an ann_file; got {dataset.type}')
    return dataset.ann_file


def stored_test(cfg, checkpoint, modality, folder, drop_router=False, trust_checkpoint=False):
    """Test a checkpoint, or read the result of an earlier equal test.

    A result is a JSON file named by the contents it depends on: what the config says of model, test data and
    evaluation, the checkpoint's bytes, the info file's bytes and the modality. It is written when the test has ended.

    Args:
        cfg (mmcv.Config): from `load_config`; `data.test` is a nuScenes dataset.
        checkpoint (str): path of the file, see `build_trained_model`.
        modality (str): see `with_modality`.
        folder (str | Path): where results are kept.
        drop_router, trust_checkpoint: see `run_test`.

    Returns:
        dict: `metrics` (name -> number, NaN where the devkit has none), `seconds` of wall time that the test took,
        `modality`, `checkpoint`, `checkpoint_sha256`, `info_file_sha256`; and `reused`, whether it was there.

    Raises:
        FileNotFoundError: checkpoint or info file do not exist.
        ValueError: see `run_test`, `with_modality` and `info_file`.
    """
    cfg = with_modality(cfg, modality)
    origin = dict(modality=modality, checkpoint=str(checkpoint), checkpoint_sha256=file_sha256(checkpoint),
                  info_file_sha256=file_sha256(info_file(cfg, 'test')))
    key = content_key({name: cfg.get(name) for name in _TEST_SETTINGS}, cfg.data.test, origin['modality'],
                      origin['checkpoint_sha256'], origin['info_file_sha256'])
    path = Path(folder) / f'{modality}_{key}.json'
    reused = path.is_file()
    if not reused:
        start = time.perf_counter()
        metrics = run_test(cfg, checkpoint, metrics=['bbox'], seed=0, drop_router=drop_router,
                           trust_checkpoint=trust_checkpoint)
        write_record(path, {**origin, 'seconds': time.perf_counter() - start, 'metrics': plain_values(metrics)})
    record = read_record(path)
    return {**record, 'reused': reused}
