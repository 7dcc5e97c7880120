"""Training data whose ground truth the pipeline filters away; mmdet3d would look for another sample for ever."""
import copy

import numpy as np
import pytest
from mmcv.parallel import collate
from mmdet3d.datasets import build_dataset
from torch.utils.data import DataLoader

CLASSES = ['car', 'pedestrian']
FAR_AWAY = [500., 500., -5., 600., 600., 3.]
NEAR = [-60., -60., -5., 60., 60., 3.]


def pipeline(range_=NEAR, classes=CLASSES):
    return [
        dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
        dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
        dict(type='ObjectRangeFilter', point_cloud_range=range_),
        dict(type='ObjectNameFilter', classes=classes),
        dict(type='DefaultFormatBundle3D', class_names=CLASSES),
        dict(type='Collect3D', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
    ]


def numbered(info, count):
    """Samples that differ in token and time, in this order."""
    return [dict(info, token=str(number), timestamp=info['timestamp'] + number) for number in range(count)]


@pytest.fixture
def build(write_nuscenes_infos, real_frame):
    """Data sets of both kinds with a pipeline."""

    def run(steps, infos=None, kind='CustomNuScenesDataset', wrap=dict, **options):
        source = (dict(ann_file=write_nuscenes_infos(infos)) if kind == 'CustomNuScenesDataset' else
                  dict(data_root=str(real_frame), filter_empty_gt=True))
        return build_dataset(wrap(dict(source, type=kind, classes=CLASSES, pipeline=steps, **options)))

    return run


@pytest.mark.parametrize('kind', ['CustomNuScenesDataset', 'FrameFolderDataset'])
@pytest.mark.parametrize('wrap', [dict, lambda config: dict(type='CBGSDataset', dataset=config)])
def test_no_ground_truth_left(build, kind, wrap):
    with pytest.raises(RuntimeError) as raised:
        build(pipeline(FAR_AWAY), kind=kind, wrap=wrap)[0]
    message = str(raised.value)
    assert '.pkl: none of the ' in message and str(CLASSES) in message and str(FAR_AWAY) in message


def test_the_class_filter_is_named(build):
    with pytest.raises(RuntimeError, match=r'none of the 3 samples .*ObjectNameFilter\(classes=\[\]\)'):
        build(pipeline(classes=[]))[1]


def test_a_worker_of_a_loader_says_it(build):
    loader = DataLoader(build(pipeline(FAR_AWAY)), num_workers=1, collate_fn=collate)
    with pytest.raises(RuntimeError, match='left after the training pipeline'):
        next(iter(loader))


def test_the_only_sample_with_ground_truth_is_found(build, nuscenes_infos):
    infos = numbered(nuscenes_infos[0], 60)
    for info in infos[:37] + infos[38:]:
        info['gt_names'] = np.full_like(info['gt_names'], 'bus')
    dataset = build(pipeline(), infos)
    for seed in range(3):
        np.random.seed(seed)
        assert dataset[0]['img_metas'].data['sample_idx'] == '37'


def test_a_large_data_set_is_not_tried_to_its_end(build, nuscenes_infos):
    infos = numbered(nuscenes_infos[0], 500)
    dataset = build(pipeline(FAR_AWAY), infos)
    tried = []
    prepare = dataset.prepare_train_data
    dataset.prepare_train_data = lambda index: tried.append(index) or prepare(index)
    with pytest.raises(RuntimeError, match='none of 200 random samples'):
        dataset[0]
    assert len(set(tried[-200:])) == 200 and len(tried) < 250


def test_draws_are_those_of_mmdet3d(build, nuscenes_infos):
    """So that trainings with the same seed see the same data as ever."""
    infos = [copy.deepcopy(info) for info in numbered(nuscenes_infos[0], 8)]
    for info in infos[::2]:
        info['gt_names'][:] = 'bus'
    dataset = build(pipeline(), infos)
    for seed in range(5):
        np.random.seed(seed)
        found = dataset[0]['img_metas'].data['sample_idx']
        np.random.seed(seed)
        expected = super(type(dataset), dataset).__getitem__(0)['img_metas'].data['sample_idx']
        assert found == expected


def test_samples_without_boxes_are_kept_if_asked(build):
    sample = build(pipeline(FAR_AWAY), filter_empty_gt=False)[2]
    assert len(sample['gt_labels_3d'].data) == 0
    assert build(pipeline(FAR_AWAY)[:1], test_mode=True)[2]['points'].shape[1] == 5
