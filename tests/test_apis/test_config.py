import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from projects.mmdet3d_plugin.apis.config import load_config
from tests.tiny_detector import write_config


class TestLoadConfig:

    def test_options_override_and_add(self, tmp_path):
        options = {'data.samples_per_gpu': 3, 'model.width': 4, 'optimizer_config.grad_clip.max_norm': 1, 'fp16': {},
                   'data.val_dataloader.samples_per_gpu': 2, 'log_config.hooks.0.type': 'TextLoggerHook'}
        cfg = load_config(write_config(tmp_path), options)
        assert cfg.data.samples_per_gpu == 3 and cfg.model.width == 4 and cfg.optimizer_config.grad_clip.max_norm == 1
        assert cfg.data.val_dataloader.samples_per_gpu == 2 and cfg.fp16 == {}
        assert cfg.work_dir is None and cfg.load_from is None and cfg.resume_from is None

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match='config file not found: .*no.py'):
            load_config(tmp_path / 'no.py')

    @pytest.mark.parametrize('line, name', [
        ("data['test']['data_root'] = 'd\\udcff/'", 'data.test.data_root'),
        ("work_dir = 'd\\udcff'", 'work_dir'), ("own = [dict(a=(1, 'd\\udcff'))]", 'own.a')])
    def test_settings_that_are_not_utf8(self, tmp_path, line, name):
        path = write_config(tmp_path)
        path.write_text(f'{path.read_text()}\n{line}\n')
        with pytest.raises(ValueError, match=rf"^{name}='d\\udcff/?' is not UTF-8, as logs and saved configs are"):
            load_config(path)

    @pytest.mark.parametrize('option, message', [
        ('modle.width', "the config has no 'modle'; did you mean model"),
        ('data.sample_per_gpu', "data has no 'sample_per_gpu'; did you mean samples_per_gpu"),
        ('log_config.intervall', "log_config has no 'intervall'; did you mean interval"),
        ('checkpoint_config.keep', "checkpoint_config has no 'keep'; allowed to add"),
        ('zzz', "the config has no 'zzz'; allowed to add"),
    ])
    def test_options_that_nothing_reads(self, tmp_path, option, message):
        with pytest.raises(KeyError, match=f'--cfg-options {option}: {message}'):
            load_config(write_config(tmp_path), {option: 1})

    @pytest.mark.parametrize('option', ['train_cfg.pts.max_objs', 'test_cfg.pts.score_threshold', 'test_cfg.pts.a.b'])
    def test_options_of_the_head_that_nothing_reads(self, repo_root, option):
        """Published configs have such settings: changing one would leave the same detections."""
        config = repo_root / 'configs/cmt_voxel0100_r50_800x320_cbgs.py'
        with pytest.raises(KeyError, match=rf'--cfg-options model.{option}: nothing reads .*bbox_coder'):
            load_config(config, {f'model.{option}': 1})
        assert load_config(config, {'model.test_cfg.pts.out_size_factor': 4}).model.test_cfg.pts.out_size_factor == 4

    @pytest.mark.parametrize('line, message', [
        ("data['sample_per_gpu'] = 1", "data has no 'sample_per_gpu'; did you mean samples_per_gpu"),
        ("log_config['intervall'] = 1", "log_config has no 'intervall'; did you mean interval"),
        ('checkpoint_config = dict(max_keep=1)', "checkpoint_config has no 'max_keep'; did you mean max_keep_ckpts"),
    ])
    def test_keys_in_files_that_nothing_reads(self, tmp_path, line, message):
        with pytest.raises(KeyError, match=f'tiny.py: {message}'):
            load_config(write_config(tmp_path, line))

    @pytest.mark.parametrize('line', ['checkpoint_config = None', 'log_config = None',
                                      "checkpoint_config = dict(type='OtherHook', keep=1)"])
    def test_sections_left_out_and_hooks_of_other_types(self, tmp_path, line):
        load_config(write_config(tmp_path, line))

    @pytest.mark.parametrize('typo, key', [('evalution', 'evaluation'), ('load_form', 'load_from'), ('modle', 'model'),
                                           ('optimiser', 'optimizer'), ('total_epoch', 'total_epochs')])
    def test_names_in_files_that_look_mistyped_are_warned_of(self, tmp_path, caplog, typo, key):
        load_config(write_config(tmp_path, f'{typo} = 1'))
        record, = caplog.records
        assert record.levelno == logging.WARNING
        assert f"nothing reads '{typo}' at top level; did you mean {key}?" in record.message

    @pytest.mark.parametrize('name', ['cmt_voxel0075_vov_1600x640_cbgs', 'cmt_voxel0100_r50_800x320_cbgs'])
    def test_variables_of_published_configs_are_silent(self, upstream, tmp_path, caplog, name):
        path = tmp_path / f'{name}.py'
        path.write_text((upstream / f'{name}.config.txt').read_text())
        load_config(path)
        assert not caplog.records

    @pytest.mark.parametrize('plugin_dir', [None, '', '/projects/mmdet3d_plugin/', '../projects'])
    def test_plugin_dir_must_be_a_relative_package(self, tmp_path, plugin_dir):
        with pytest.raises(ValueError, match='plugin=True needs plugin_dir'):
            load_config(write_config(tmp_path), dict(plugin_dir=plugin_dir))

    def test_other_plugins_are_imported(self, tmp_path, monkeypatch):
        package = tmp_path / 'some_plugin'
        package.mkdir()
        (package / '__init__.py').write_text('')
        monkeypatch.syspath_prepend(tmp_path)
        load_config(write_config(tmp_path), dict(plugin_dir='some_plugin/'))
        assert 'some_plugin' in sys.modules

    def test_all_configs_of_the_project_load(self, repo_root, caplog):
        paths = sorted((repo_root / 'configs').glob('*.py'))
        assert paths
        for path in paths:
            assert load_config(path).model.type == 'CmtDetector'
        assert not caplog.records


def test_threads_read_side_by_side(repo_root):
    """As the ablation does; mmcv finds no temporary module where another thread has one."""
    paths = [repo_root / 'configs' / name for name in ('cmt_aqr_plug_in_synthetic.py', 'cmt_synthetic_lies.py')] * 5
    with ThreadPoolExecutor(6) as pool:
        configs = list(pool.map(load_config, paths))
    assert [Path(cfg.filename) for cfg in configs] == paths
