import pytest
import torch
from mmdet3d.datasets import NuScenesDataset
from mmdet3d.models import build_model

from projects.mmdet3d_plugin.apis import build_trained_model, load_config
from projects.mmdet3d_plugin.apis.class_names import head_classes
from projects.mmdet3d_plugin.apis.evaluation_checks import check_arguments
from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset, FrameFolderDataset


class TestCheckArguments:
    """Only the classes matter: datasets without their files do."""

    @pytest.mark.parametrize('cls', [NuScenesDataset, CustomNuScenesDataset, FrameFolderDataset])
    def test_metric(self, cls):
        dataset = cls.__new__(cls)
        check_arguments(dataset, 'evaluate', {})
        check_arguments(dataset, 'evaluate', dict(metric='bbox'))
        check_arguments(dataset, 'evaluate', dict(metric=['bbox'], logger=None))
        for metric in ('box', ['bbox', 'segm'], []):
            with pytest.raises(ValueError, match=f"{cls.__name__}.evaluate: metric must be 'bbox', got"):
                check_arguments(dataset, 'evaluate', dict(metric=metric))

    def test_names(self):
        dataset = NuScenesDataset.__new__(NuScenesDataset)
        check_arguments(dataset, 'format_results', dict(jsonfile_prefix='a'))
        for method in ('evaluate', 'format_results'):
            with pytest.raises(ValueError, match=rf"NuScenesDataset.{method} does not take {{'prefix': 'a'}}"):
                check_arguments(dataset, method, dict(prefix='a'))


def test_a_checkpoint_for_the_classes_in_another_order(repo_root, tmp_path):
    """All shapes fit, and car would be called traffic cone."""
    cfg = load_config(repo_root / 'configs/cmt_aqr_real_frame.py', {'model.img_backbone.base_channels': 8,
                                                                    'model.img_neck.in_channels': [32, 64]})
    model = build_model(cfg.model)
    classes = head_classes(model)
    for names in (classes, classes[::-1]):
        torch.save(dict(state_dict=model.state_dict(), meta=dict(CLASSES=tuple(names))), tmp_path / 'model.pth')
        if names == classes:
            assert build_trained_model(cfg, str(tmp_path / 'model.pth')).CLASSES == tuple(classes)
        else:
            with pytest.raises(ValueError, match='model.pth name the same classes in another order'):
                build_trained_model(cfg, str(tmp_path / 'model.pth'))


def test_fp16_is_left_out_where_there_is_no_gpu(repo_root, tmp_path, monkeypatch):
    cfg = load_config(repo_root / 'configs/cmt_aqr_real_frame.py', {
        'model.img_backbone.base_channels': 8, 'model.img_neck.in_channels': [32, 64], 'fp16.loss_scale': 512.})
    torch.save(dict(state_dict=build_model(cfg.model).state_dict()), tmp_path / 'model.pth')
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda available=available: available)
        assert bool(build_trained_model(cfg, str(tmp_path / 'model.pth')).fp16_enabled) == available
