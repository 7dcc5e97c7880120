import copy
import pickle
from pathlib import Path

import mmcv
import numpy as np
import pytest
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.datasets.builder import OBJECTSAMPLERS
from shapely.geometry import Polygon

NO_BOX, NO_LABEL = np.zeros((0, 9), np.float32), np.zeros(0, np.int64)


@pytest.fixture
def build_sampler(sampler_cfg):
    return lambda **changes: OBJECTSAMPLERS.build(dict(copy.deepcopy(sampler_cfg), **changes))


@pytest.fixture
def records(object_database):
    with open(object_database, 'rb') as file:
        return pickle.load(file)


def overlap(box, other):
    """BEV overlap (m2) of two boxes."""
    footprints = LiDARInstance3DBoxes(np.stack([box, other]), box_dim=9).corners[:, [0, 3, 7, 4], :2].numpy()
    return Polygon(footprints[0]).intersection(Polygon(footprints[1])).area


def test_objects_come_with_their_points_and_crops(build_sampler, records, tmp_path):
    np.random.seed(0)
    sampler = build_sampler()
    sampled = sampler.sample_all(NO_BOX, NO_LABEL, with_img=True)
    assert set(sampled['gt_labels_3d'].tolist()) == {0, 8} and sampled['gt_labels_3d'].dtype == np.int64
    known = {tuple(record['box3d_lidar']): record for name in ('car', 'pedestrian') for record in records[name]}
    for i, (box, label) in enumerate(zip(sampled['gt_bboxes_3d'], sampled['gt_labels_3d'])):
        record = known[tuple(box)]
        assert sampler.label2cat[label] == record['name']
        assert record['num_points_in_gt'] >= 5
        own = sampled['points'].tensor.numpy()[sampled['points_idx'] == i]
        stored = np.fromfile(tmp_path / record['path'], np.float32).reshape(-1, 5)
        np.testing.assert_allclose(own, stored + [*box[:3], 0, 0], atol=1e-5)
        if record['image_path']:
            np.testing.assert_array_equal(sampled['images'][i], mmcv.imread(str(tmp_path / record['image_path'])))
        else:
            assert sampled['images'][i] is None
    assert sum(crop is not None for crop in sampled['images']) >= 3
    assert len(sampled['points']) == len(sampled['points_idx'])


@pytest.mark.parametrize('seed', range(5))
def test_exactly_the_boxes_that_collide_are_left_out(build_sampler, records, tmp_path, seed):
    """A crowd of long, turned boxes of two classes, offered as a whole: against polygon overlap."""
    rng = np.random.default_rng(seed)

    def crowd(num):
        low, high = [-15, -15, 0, 3, 0.5, 1, -3, 0, 0], [15, 15, 0, 6, 1, 2, 3, 0, 0]
        return rng.uniform(low, high, (num, 9)).astype(np.float32)

    given = crowd(5)
    offered = {name: crowd(20) for name in ('car', 'pedestrian')}
    offered['car'][0] = given[0]  # a frame's own object: coincides with a box that is there
    path = tmp_path / 'crowd.pkl'
    path.write_bytes(pickle.dumps({
        name: [dict(records['car'][0], name=name, box3d_lidar=box) for box in boxes]
        for name, boxes in offered.items()
    }))
    np.random.seed(seed)
    sampler = build_sampler(info_path=str(path), prepare={}, sample_groups=dict(car=20, pedestrian=20))
    drawn = sampler.sample_all(given, np.full(5, 9))['gt_bboxes_3d']

    kept = list(drawn)
    assert 5 < len(kept) < 30
    for i, box in enumerate(kept):
        assert not any(overlap(box, other) > 1e-4 for other in [*given, *kept[:i]])
    for box in np.concatenate(list(offered.values())):
        if not any((box == other).all() for other in kept):
            assert any(overlap(box, other) > 0 for other in [*given, *kept])


def test_numbers_fill_up_to_the_group_size(build_sampler):
    np.random.seed(2)
    sampler = build_sampler(sample_groups=dict(pedestrian=4), prepare={})
    far_away = np.array([[500., 500, 0, 1, 1, 1, 0, 0, 0]] * 3)
    assert len(sampler.sample_all(NO_BOX, NO_LABEL)['gt_labels_3d']) <= 4
    assert len(sampler.sample_all(far_away, np.array([8, 8, 8]))['gt_labels_3d']) <= 1
    assert sampler.sample_all(np.repeat(far_away, 2, 0), np.full(6, 8)) is None
    halved = build_sampler(sample_groups=dict(pedestrian=4), prepare={}, rate=0.5)
    assert len(halved.sample_all(NO_BOX, NO_LABEL)['gt_labels_3d']) <= 2


def test_the_same_seed_draws_the_same_objects(build_sampler):
    drawn = []
    for _ in range(2):
        np.random.seed(4)
        sampler = build_sampler()
        drawn.append([sampler.sample_all(NO_BOX, NO_LABEL)['gt_bboxes_3d'] for _ in range(3)])
    for first, second in zip(*drawn):
        np.testing.assert_array_equal(first, second)


def test_sampling_does_not_change_the_database(build_sampler):
    sampler = build_sampler()
    before = copy.deepcopy(sampler.db_infos)
    sampled = sampler.sample_all(NO_BOX, NO_LABEL)
    sampled['gt_bboxes_3d'][:] = 0
    sampled['points'].translate(np.ones(3))
    for name in before:
        for old, new in zip(before[name], sampler.db_infos[name]):
            np.testing.assert_array_equal(old['box3d_lidar'], new['box3d_lidar'])


def test_classes_that_the_database_lacks_are_announced_and_skipped(build_sampler, caplog, monkeypatch):
    from mmdet3d.utils import get_root_logger
    monkeypatch.setattr(get_root_logger(), 'propagate', True)
    sampler = build_sampler(sample_groups=dict(trailer=3, motorcycle=2, car=2), prepare=dict(
        filter_by_min_points=dict(trailer=5, motorcycle=5, car=10**6)))
    assert sampler.sample_all(NO_BOX, NO_LABEL) is None
    assert "['trailer', 'motorcycle', 'car']" in caplog.text


def test_bad_configuration_is_refused(build_sampler):
    with pytest.raises(ValueError, match="sample_groups has classes .'tram'."):
        build_sampler(sample_groups=dict(tram=1))
    with pytest.raises(FileNotFoundError, match='nowhere.pkl'):
        build_sampler(info_path='nowhere.pkl')
    with pytest.raises(ValueError, match='9.* numbers, those of the sample 7'):
        build_sampler().sample_all(NO_BOX[:, :7], NO_LABEL)
    boxes = build_sampler(bbox_code_size=7).sample_all(NO_BOX[:, :7], NO_LABEL)['gt_bboxes_3d']
    assert boxes.shape[1] == 7


def test_a_missing_crop_is_reported(build_sampler, tmp_path):
    for path in Path(tmp_path / 'database/img_dir').iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"database/img_dir/\d+.png is neither at .*db_sampler.data_root="):
        build_sampler().sample_all(NO_BOX, NO_LABEL, with_img=True)


def test_a_database_without_its_files_says_which_setting_names_their_folder(build_sampler, tmp_path):
    moved = tmp_path / 'elsewhere/dbinfos.pkl'
    moved.parent.mkdir()
    (tmp_path / 'dbinfos.pkl').rename(moved)
    with pytest.raises(FileNotFoundError) as error:
        build_sampler(info_path=str(moved), data_root='data/nuscenes')
    for text in (f'object database {moved}: database/pts_dir/', 'is neither at data/nuscenes/database/pts_dir/',
                 "(db_sampler.data_root='data/nuscenes') nor at ", f'{moved.parent}/database/pts_dir/',
                 'Set db_sampler.data_root to the folder'):
        assert text in str(error.value)
    build_sampler(info_path=str(moved))
