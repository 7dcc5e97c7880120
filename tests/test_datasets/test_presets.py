"""Presets: their cases exist, run on both sensors, and are refused without one."""
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset
from projects.mmdet3d_plugin.datasets.sensor_failures import FAILURES, PRESETS, FailureCase, expand_cases

ARGUMENTS = dict(view_drop='2', fov='60', object_failure='0.5', frame_object_failure='1', beams='8', calibration='2',
                 lidar_turn='10', lidar_shift='2', phantoms='3')
EVERY_FAILURE = [f'{name}:{ARGUMENTS[name]}' if name in ARGUMENTS else f'{name}@3' if known.severities else name
                 for name, known in FAILURES.items()]
ALL_CASES = list(dict.fromkeys(case for cases in PRESETS.values() for case in cases))
LOAD = [dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
        dict(type='LoadPointsFromMultiSweepsWithRings', sweeps_num=10, use_dim=[0, 1, 2, 3, 4]),
        dict(type='LoadMultiViewImageFromFiles')]


def test_multicorrupt_has_ten_kinds_in_three_severities():
    """The names of MultiCorrupt's repository, each by what strikes here."""
    cases = PRESETS['multicorrupt']
    kinds = Counter(FailureCase.parse(case).kinds for case in cases)
    assert len(cases) == 30 and set(kinds.values()) == {3}
    assert set(kinds) == {
        ('beams', ), ('brightness', ), ('darkness', ), ('camera_fog', 'lidar_fog'), ('view_drop', ),
        ('camera_motion_blur', 'lidar_motion_blur'), ('points_reduced', ), ('camera_snow', 'lidar_snow'),
        ('misalignment', ), ('temporal_misalignment', )}
    for case in cases:
        assert len(set(re.findall(r'@(\d)', case))) <= 1  # both sensors alike
    for kind in kinds:  # from mild to bad
        own = [case for case in cases if FailureCase.parse(case).kinds == kind]
        levels = [re.findall(r'[@:]([\d.]+)', case)[0] for case in own]
        assert levels in (['1', '2', '3'], ['16', '8', '4'], ['0.2', '0.4', '0.6'])


@pytest.mark.parametrize('name', PRESETS)
def test_cases_are_written_as_they_read_themselves(name):
    for case in PRESETS[name]:
        assert str(FailureCase.parse(case)) == case
    assert len(set(PRESETS[name])) == len(PRESETS[name]) >= 10 and 'clean' not in PRESETS[name]


def test_expansion():
    assert expand_cases(['drops']) == list(PRESETS['drops'])
    mixed = expand_cases(['clean', 'fov:60.0', 'drops', FailureCase.parse('lidar_drop'), 'glare@1', 'lies'])
    assert mixed[:3] == ['clean', 'fov:60', 'lidar_drop'] and len(set(mixed)) == len(mixed)
    assert set(mixed) == {'clean', 'glare@1', *PRESETS['drops'], *PRESETS['lies']}
    assert expand_cases(iter(['clean'])) == ['clean'] and expand_cases([]) == []


@pytest.mark.parametrize('text', ['drop', 'lies+drops', 'multicorrupt@1', 'lidar_fog@4', '', None])
def test_unknown_names(text):
    with pytest.raises(ValueError, match='(allowed: clean|severities @1).*presets: multicorrupt, drops, lies') as error:
        expand_cases(['clean', text])
    assert repr(text) in str(error.value)


@pytest.fixture(scope='module')
def dataset(synthetic_nuscenes):
    return CustomNuScenesDataset(
        f'{synthetic_nuscenes}/nuscenes_infos_train.pkl', modality=dict(use_lidar=True, use_camera=True),
        test_mode=True, load_failure_boxes=True, pipeline=[*LOAD, dict(type='SimulateFailure', cases='stale_lidar@1')])


@pytest.fixture(scope='module')
def loaded(dataset):
    """A sample after its loaders."""
    results = dataset.get_data_info(3)
    dataset.pre_pipeline(results)
    for transform in dataset.pipeline.transforms[:-1]:
        results = transform(results)
    return results


@pytest.mark.parametrize('case', ALL_CASES)
def test_every_case_strikes_and_says_so(loaded, case):
    """What changed is what the record says; a case that may spare a sample says that it did."""
    assert_said(case, loaded, dict(loaded))


@pytest.mark.parametrize('first, second', zip(EVERY_FAILURE, EVERY_FAILURE[7:] + EVERY_FAILURE[:7]))
def test_two_at_once(loaded, first, second):
    """Both strike, one after the other, and the record has both."""
    record = assert_said(f'{first}+{second}', loaded, dict(loaded))
    assert record.severities == {name[:-2]: 3 for name in (first, second) if '@' in name}


def assert_said(case, loaded, sample):
    """Let a case strike a copy of a sample and compare what changed with its record, which is returned."""
    record = FailureCase.parse(case).strike(sample, 0)
    before, after = loaded['points'].tensor, sample['points'].tensor
    cloud = before.shape != after.shape or not np.array_equal(before, after)
    views = [not np.array_equal(*images) for images in zip(loaded['img'], sample['img'])]
    cameras = not np.array_equal(loaded['lidar2img'], sample['lidar2img'])
    said = record.has_lidar_region or record.is_graded or record.views_lost.any()
    assert said == (cloud or any(views) or cameras)
    assert said != (set(record.spared) == set(FailureCase.parse(case).kinds))
    assert len(sample['rings']) == len(after) and [image.shape for image in sample['img']] == [
        image.shape for image in loaded['img']]
    assert record.case == case
    return record


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('sensor', ['lidar', 'camera'])
def test_without_a_sensor_a_case_that_needs_it_is_refused(loaded, preset, sensor):
    keys = dict(lidar=('points', 'rings'), camera=('img', 'camera_names', 'lidar2img', 'lidar2cam', 'cam_intrinsic'))
    rest = {key: value for key, value in loaded.items() if key not in keys[sensor]}
    refused = []
    for case in map(FailureCase.parse, PRESETS[preset]):
        missing = case.needs & set(keys[sensor]) - {'rings'}
        if missing:
            with pytest.raises(ValueError, match=f"needs.*'{sorted(missing)[0]}'"):
                case.strike(dict(rest), 0)
            refused.append(str(case))
        elif sensor == 'camera':
            assert case.strike(dict(rest), 0).views_lost is None
    assert len(refused) >= 4


def test_the_docs_list_them():
    page = (Path(__file__).resolve().parents[2] / 'docs/corruptions.md').read_text()
    section = page[page.index('\n## Presets'):]
    section = section[:section.find('\n## ', 5)] if '\n## ' in section[5:] else section
    for name in PRESETS:
        assert f'| `{name}` |' in section
    lidar = page[page.index('\n## LiDAR'):]
    for case in ('misalignment', 'lidar_turn', 'lidar_shift', 'lidar_fog', 'lidar_snow', 'crosstalk', 'jitter',
                 'lidar_motion_blur', 'points_reduced', 'phantoms', 'stale_lidar', 'temporal_misalignment'):
        assert f'`{case}' in lidar
