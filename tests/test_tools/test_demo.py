import json
import os

import pytest
import torch
from mmdet3d.models import build_model

from projects.mmdet3d_plugin.apis import load_config

CONFIG = 'configs/cmt_aqr_real_frame.py'
SMALL = {
    'model.img_backbone.base_channels': 8, 'model.img_neck.in_channels': [32, 64], 'model.pts_bbox_head.num_query': 30,
    'model.pts_bbox_head.transformer.decoder.num_layers': 1
}
FILES = ['frame_000_bev.png', 'frame_000_cameras.png', 'frame_000_detections.json']


@pytest.fixture(scope='module')
def demo(run_tool, repo_root, real_frame):
    """Run the demo of a small model on the real frame; returns (printed text, detections)."""

    def run(out, *checkpoint, score_thr=0.0):
        options = [f'{key}={str(value).replace(" ", "")}' for key, value in SMALL.items()]
        text = run_tool('demo.py', repo_root / CONFIG, *checkpoint, '--frame', real_frame, '--out', out, '--score-thr',
                        score_thr, '--cfg-options', *options, cwd=repo_root)
        assert sorted(os.listdir(out)) == FILES
        return text, json.loads((out / FILES[2]).read_text())

    return run


def test_untrained_weights_are_named_as_such(demo, tmp_path):
    text, written = demo(tmp_path / 'new' / 'folder')
    assert 'NO CHECKPOINT: the weights are untrained' in text
    assert [line.split() for line in text.splitlines() if line.startswith('weights')] == [['weights', 'untrained']]
    assert written['checkpoint'] is None and written['sample'] and written['score_thr'] == 0
    assert f'{len(written["detections"])}\n' in text
    for name in ('boxes with >= 5 LiDAR points', 'found within 2 m (recall)', 'wall time a frame'):
        assert name in text


def test_a_checkpoint_is_loaded_and_the_threshold_applies(demo, repo_root, tmp_path):
    model = build_model(load_config(repo_root / CONFIG, SMALL).model)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=1)), tmp_path / 'weights.pth')
    text, written = demo(tmp_path / 'all', tmp_path / 'weights.pth')
    assert 'untrained' not in text and written['checkpoint'].endswith('weights.pth')
    scores = [detection['score'] for detection in written['detections']]
    assert scores == sorted(scores, reverse=True) and len(scores) > 1
    middle = (scores[0] + scores[-1]) / 2
    _, some = demo(tmp_path / 'some', tmp_path / 'weights.pth', score_thr=middle)
    assert some['detections'] == [detection for detection in written['detections'] if detection['score'] >= middle]


@pytest.mark.parametrize('arguments, message', [
    (['--frame', 'nowhere', '--out', 'out'], 'argument --frame: no such folder: nowhere'),
    (['--frame', '.', '--out', 'out', '--score-thr', '30'], 'argument --score-thr: must be in [0, 1], got 30.0'),
    (['--frame', '.', '--out', 'out'], 'looked for the info file'),
    (['no.pth', '--frame', '.', '--out', 'out'], 'argument checkpoint: no such file: no.pth'),
])
def test_mistakes(run_tool, repo_root, tmp_path, arguments, message):
    assert message in run_tool('demo.py', repo_root / CONFIG, *arguments, cwd=tmp_path, code=None)
    assert not os.listdir(tmp_path)
