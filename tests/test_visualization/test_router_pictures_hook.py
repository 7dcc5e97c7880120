"""The hook in mmcv's runner with a real detector: what TensorBoard holds against pictures drawn afterwards."""
import logging

import cv2
import numpy as np
import pytest
import torch
from mmcv.runner import EpochBasedRunner, EvalHook
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from projects.mmdet3d_plugin.apis import build_trained_model, load_config
from projects.mmdet3d_plugin.apis.routing_snapshot import build_case_dataset, take_snapshot
from projects.mmdet3d_plugin.visualization.router_pictures_hook import RouterPicturesHook
from projects.mmdet3d_plugin.visualization.routing_pictures import draw_routing, draw_routing_cameras

STEP = torch.tensor([0.7, -0.7])


class Training(nn.Module):
    """Trains nothing but the last bias of the router: by a step of a fixed size, so that every epoch draws another."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector
        self.pts_bbox_head = detector.pts_bbox_head
        self.extract_feat, self.blank_features = detector.extract_feat, detector.blank_features

    def train_step(self, batch, optimizer):
        assert self.training
        with torch.no_grad():
            self.pts_bbox_head.aqr_router.mlp[-1].bias += STEP
        return dict(log_vars={}, num_samples=1)


@pytest.fixture(scope='module')
def parts(repo_root, synthetic_nuscenes):
    """Config, its text as training keeps it, and detector, all real."""
    cfg = load_config(repo_root / 'configs/cmt_aqr_synthetic.py')
    for part in (cfg.data.val, cfg.data.test):
        part.update(data_root=f'{synthetic_nuscenes}/', ann_file=f'{synthetic_nuscenes}/nuscenes_infos_val.pkl')
    return cfg, cfg.pretty_text, build_trained_model(cfg, str(repo_root / 'checkpoints/cmt_synthetic.pth'))


class NotScored:
    """Validation data whose evaluation is left out."""

    def __len__(self):
        return 0

    def evaluate(self, results, logger):
        return {}


@pytest.fixture
def train(parts, tmp_path, monkeypatch):
    """Function: three epochs of one iteration with the hook, evaluation after the second."""
    monkeypatch.setattr('mmcv.runner.epoch_based_runner.time.sleep', lambda seconds: None)
    _, text, detector = parts

    def run(evaluated=True, loggers=('TensorboardLoggerHook', ), text=text, **options):
        model = Training(detector)
        runner = EpochBasedRunner(
            model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0), work_dir=str(tmp_path),
            logger=logging.getLogger('pictures'), max_epochs=3, meta=dict(config=text))
        runner.register_logger_hooks(dict(interval=1, hooks=[dict(type=name) for name in loggers]))
        if evaluated:
            runner.register_hook(EvalHook(DataLoader(NotScored()), interval=2, test_fn=lambda model, loader: []))
        runner.register_hook(RouterPicturesHook(**options))
        runner.run([DataLoader([0])], [('train', 1)])

    return run


def test_pictures_after_the_epochs_that_are_evaluated(train, parts, tmp_path):
    cfg, _, detector = parts
    bias = detector.pts_bbox_head.aqr_router.mlp[-1].bias
    start = bias.detach().clone()
    train(samples=[2], cases=['clean', 'lidar_drop'])
    with torch.no_grad():
        assert torch.allclose(bias, start + 3 * STEP)
        bias.copy_(start + 2 * STEP)
    clean, failed = (take_snapshot(detector.eval(), build_case_dataset(cfg, case), 2) for case in (
        'clean', 'lidar_drop'))
    assert (clean.preference > 0.5).all() and not len(failed.points)
    draw_routing(tmp_path / 'bev.png', [clean, failed], title='sample 2, epoch 2')
    draw_routing_cameras(tmp_path / 'cameras_clean.png', clean, title='sample 2, epoch 2, clean')
    draw_routing_cameras(tmp_path / 'cameras_lidar_drop.png', failed, title='sample 2, epoch 2, lidar_drop')
    events = EventAccumulator(str(tmp_path / 'tf_logs'), size_guidance=dict(images=0)).Reload()
    names = ['bev', 'cameras_clean', 'cameras_lidar_drop']
    assert sorted(events.Tags()['images']) == [f'router/sample_2_{name}' for name in names]
    for name in names:
        logged, = events.Images(f'router/sample_2_{name}')
        assert logged.step == 2
        shown = cv2.imdecode(np.frombuffer(logged.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(shown, cv2.imread(str(tmp_path / f'{name}.png')))


def test_mistakes(train, parts):
    for options, message in (
            (dict(samples=[]), 'samples must be indices >= 0, at least one, got'),
            (dict(samples=[-1]), 'samples must be indices >= 0'),
            (dict(cases='clean'), "cases must be a list of sensor failures, at least one, got 'clean'"),
            (dict(cases=['rain']), "'rain' is no failure"),
            (dict(score_thr=2), r'score_thr must lie in \[0, 1\], got 2'),
            (dict(samples=[0, 4]), r'samples must be below 4, the number of samples of data.val, got \[0, 4\]'),
            (dict(evaluated=False), 'needs EvalHook beside it'),
            (dict(loggers=['TextLoggerHook']), 'needs TensorboardLoggerHook beside it'),
            (dict(text=parts[1].replace('enable_aqr=True', 'enable_aqr=False')), 'the model has no router to look at')):
        with pytest.raises(ValueError, match=message):
            train(**options)


def test_a_config_names_it(repo_root, tmp_path):
    """As docs/monitoring.md says."""
    block = (repo_root / 'docs/monitoring.md').read_text().split('### RouterPicturesHook\n')[1]
    snippet = block.split('```python\n')[1].split('```')[0]
    (tmp_path / 'config.py').write_text(f"_base_ = '{repo_root}/configs/cmt_aqr_synthetic.py'\n{snippet}")
    hooks = load_config(tmp_path / 'config.py').custom_hooks
    assert [hook['type'] for hook in hooks][-1] == 'RouterPicturesHook'
