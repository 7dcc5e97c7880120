import json
import os
import pickle
import runpy

import numpy as np
import pytest
import torch
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.datasets import build_dataset
from mmdet3d.models import build_model

from projects.mmdet3d_plugin.apis import inference, load_config
from projects.mmdet3d_plugin.datasets import FrameFolderDataset
from tests.tiny_nuscenes import BOXES, CAMERAS, write_tiny_nuscenes

CONFIG = 'configs/cmt_aqr_real_frame.py'
SMALL = {
    'model.img_backbone.base_channels': 8, 'model.img_neck.in_channels': [32, 64], 'model.pts_bbox_head.num_query': 30,
    'model.pts_bbox_head.transformer.decoder.num_layers': 1
}
FILES = ['frame_000_bev.png', 'frame_000_cameras.png', 'frame_000_detections.json']


@pytest.fixture(scope='module')
def demo(run_tool, repo_root, real_frame):
    """Run the demo of a small model on the real frame; returns (printed text, detections)."""

    def run(out, *checkpoint, score_thr=0.0, frame=real_frame, options=()):
        options = [*(f'{key}={str(value).replace(" ", "")}' for key, value in SMALL.items()), *options]
        text = run_tool('demo.py', repo_root / CONFIG, *checkpoint, '--frame', frame, '--out', out, '--score-thr',
                        score_thr, '--cfg-options', *options, cwd=repo_root)
        assert sorted(os.listdir(out)) == FILES
        return text, json.loads((out / FILES[2]).read_text())

    return run


def recalls(text):
    """The two values printed: of all detections, and of those that are drawn."""
    rows = [line for line in text.splitlines() if 'found within 2 m (recall)' in line]
    assert len(rows) == 2 and ', all detections ' in rows[0] and ', score >= ' in rows[1]
    return [row.split('  ', 1)[1].strip() for row in rows]


def test_untrained_weights_are_named_as_such(demo, tmp_path):
    text, written = demo(tmp_path / 'new' / 'folder')
    assert 'NO CHECKPOINT: the weights are untrained' in text
    assert [line.split() for line in text.splitlines() if line.startswith('weights')] == [['weights', 'untrained']]
    assert written['checkpoint'] is None and written['sample'] and written['score_thr'] == 0
    assert f'{len(written["detections"])}\n' in text
    for name in ('boxes with >= 5 LiDAR points', 'wall time a frame'):
        assert name in text
    everything, drawn = recalls(text)
    assert everything == drawn  # the threshold is 0


def test_a_checkpoint_is_loaded_and_the_threshold_applies(demo, repo_root, tmp_path):
    model = build_model(load_config(repo_root / CONFIG, SMALL).model)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=1)), tmp_path / 'weights.pth')
    text, written = demo(tmp_path / 'all', tmp_path / 'weights.pth')
    assert 'untrained' not in text and written['checkpoint'].endswith('weights.pth')
    scores = [detection['score'] for detection in written['detections']]
    assert scores == sorted(scores, reverse=True) and len(scores) > 1
    middle = (scores[0] + scores[-1]) / 2
    again, some = demo(tmp_path / 'some', tmp_path / 'weights.pth', score_thr=middle)
    assert recalls(again)[0] == recalls(text)[0]
    assert some['detections'] == [detection for detection in written['detections'] if detection['score'] >= middle]


def test_recall_of_all_detections_and_of_the_drawn(repo_root, real_frame, monkeypatch):
    monkeypatch.syspath_prepend(repo_root / 'tools')
    recall_rows = runpy.run_path(str(repo_root / 'tools' / 'demo.py'))['recall_rows']
    dataset = FrameFolderDataset(str(real_frame), test_mode=True)
    truth = dataset.get_ann_info(0)
    boxes = truth['gt_bboxes_3d'].tensor.clone()
    boxes[:, 0] += 0.125
    scores = torch.linspace(1, 0.1, len(boxes))
    result = dict(boxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9), scores_3d=scores,
                  labels_3d=torch.as_tensor(truth['gt_labels_3d']))
    asked = truth['num_lidar_pts'] >= 5
    share = asked[:np.sum(scores.numpy() >= 0.7)].sum() / asked.sum()
    found = 'of these found within 2 m (recall), '
    assert recall_rows(dataset, [result], 0.7) == {
        'boxes with >= 5 LiDAR points': str(asked.sum()),
        f'{found}all detections': '1.000, mean center error 0.125 m',
        f'{found}score >= 0.7': f'{share:.3f}, mean center error 0.125 m'}
    assert recall_rows(dataset, [result], 1.1)[f'{found}score >= 1.1'] == '0.000'
    for instance in dataset.data_infos[0]['instances']:
        del instance['num_lidar_pts']
    assert recall_rows(dataset, [result], 0.7)['boxes'] == '68'
    dataset.data_infos[0]['instances'] = []
    assert recall_rows(dataset, [result], 0.7)[f'{found}all detections'] == '-'
    dataset.data_infos *= 2
    dataset.data_infos[1] = dict(dataset.data_infos[0], instances=None)
    assert recall_rows(dataset, [result] * 2, 0.7) == {'ground truth': '- (none for frames [1])'}


def test_a_frame_without_annotations(demo, real_frame, tmp_path):
    (tmp_path / 'frame').mkdir()
    for path in real_frame.iterdir():
        if path.suffix == '.pkl':
            frame, = pickle.loads(path.read_bytes())['data_list']
        else:
            (tmp_path / 'frame' / path.name).symlink_to(path)
    cameras = {name: {key: camera[key] for key in ('img_path', 'cam2img', 'lidar2cam')}
               for name, camera in frame['images'].items()}
    record = dict(images=cameras, lidar_points=dict(lidar_path=frame['lidar_points']['lidar_path']))
    (tmp_path / 'frame' / 'info.pkl').write_bytes(pickle.dumps(dict(data_list=[record])))
    text, written = demo(tmp_path / 'out', frame=tmp_path / 'frame')
    assert written['sample'] == '0' and written['detections']
    assert ['ground', 'truth', 'none'] in [line.split() for line in text.splitlines()] and 'recall' not in text


def test_an_aqr_checkpoint_without_its_router(demo, repo_root, tmp_path):
    model = build_model(load_config(repo_root / CONFIG, SMALL).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'aqr.pth')
    options = ['model.pts_bbox_head.enable_aqr=False']
    demo(tmp_path / 'out', tmp_path / 'aqr.pth', '--drop-router', options=options)
    with pytest.raises(AssertionError, match='--drop-router'):
        demo(tmp_path / 'refused', tmp_path / 'aqr.pth', options=options)


def test_samples_of_the_test_data(run_tool, repo_root, tmp_path):
    write_tiny_nuscenes(tmp_path)
    (tmp_path / 'config.py').write_text(f"""_base_ = '{repo_root / CONFIG}'
data = dict(test=dict(
    _delete_=True, type='CustomNuScenesDataset', data_root='data/', ann_file='data/nuscenes_infos_val.pkl',
    classes={{{{_base_.class_names}}}}, pipeline={{{{_base_.test_pipeline}}}}, modality=dict(
        use_camera=True, use_lidar=True, use_radar=False, use_map=False, use_external=False)))
""")
    options = ['--cfg-options', *(f'{key}={str(value).replace(" ", "")}' for key, value in SMALL.items())]
    text = run_tool('demo.py', 'config.py', '--sample', 1, '--out', 'out', '--score-thr', 0, *options, cwd=tmp_path)
    assert sorted(os.listdir(tmp_path / 'out')) == [name.replace('000', '001') for name in FILES]
    written = json.loads((tmp_path / 'out/frame_001_detections.json').read_text())
    assert written['sample'] == 'sample scene-0916' and written['detections']
    assert ['frames', '1'] in [line.split() for line in text.splitlines()] and 'recall' not in text

    dataset = build_dataset(load_config(tmp_path / 'config.py').data.test | dict(
        data_root=f'{tmp_path}/data', ann_file=f'{tmp_path}/data/nuscenes_infos_val.pkl'))
    assert inference.camera_names(dataset, 1) == list(CAMERAS)
    np.testing.assert_allclose(inference.ground_truth(dataset, 1).gravity_center.numpy(), BOXES[:, :3], atol=1e-5)
    del dataset.data_infos[1]['gt_boxes']
    assert inference.ground_truth(dataset, 1) is None
    text = run_tool('demo.py', 'config.py', '--sample', 0, 2, '--out', 'none', *options, cwd=tmp_path, code=1)
    assert "no sample '2' in the test data: allowed are indices 0 to 1 and tokens" in text
    assert not (tmp_path / 'none').exists()


@pytest.mark.parametrize('arguments, message', [
    (['--frame', '.', '--sample', '0', '--out', 'out'], 'argument --sample: not allowed with argument --frame'),
    (['--out', 'out'], 'one of the arguments --frame --sample is required'),
    (['--frame', 'nowhere', '--out', 'out'], 'argument --frame: no such folder: nowhere'),
    (['--frame', '.', '--out', 'out', '--score-thr', '30'], 'argument --score-thr: must be in [0, 1], got 30.0'),
    (['--frame', '.', '--out', 'out'], 'looked for the info file'),
    (['no.pth', '--frame', '.', '--out', 'out'], 'argument checkpoint: no such file: no.pth'),
])
def test_mistakes(run_tool, repo_root, tmp_path, arguments, message):
    assert message in run_tool('demo.py', repo_root / CONFIG, *arguments, cwd=tmp_path, code=None)
    assert not os.listdir(tmp_path)
