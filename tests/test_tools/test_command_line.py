"""What all tools share: quick help, arguments, and a sentence where the environment is missing."""
import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_detector import write_config
from tools import command_line

TOOLS = sorted(path.name for path in Path(command_line.__file__).parent.glob('*.py')
               if path.name != 'command_line.py')
WITHOUT_MMCV = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == 'mmcv':
            raise ModuleNotFoundError("No module named 'mmcv'", name='mmcv')

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture
def imports(repo_root, tmp_path):
    """Run a tool from another folder; returns (exit code, printed text, names of the packages that it imported)."""

    def run(name, *arguments):
        command = [sys.executable, '-X', 'importtime', repo_root / 'tools' / name, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        lines = done.stderr.splitlines()
        packages = {line.rpartition('|')[2].strip().partition('.')[0]
                    for line in lines if line.startswith('import time:')}
        assert 'argparse' in packages
        text = done.stdout + '\n'.join(line for line in lines if not line.startswith('import time:'))
        return done.returncode, text, packages

    return run


class TestStart:

    @pytest.mark.parametrize('name', TOOLS)
    def test_help_needs_no_environment(self, repo_root, imports, name):
        code, text, packages = imports(name, '--help')
        assert code == 0 and text.startswith(f'usage: {name}') and f'tools/{name}' in text
        assert not packages & {'torch', 'mmcv', 'mmdet', 'mmdet3d', 'numpy', 'matplotlib', 'projects'}
        assert os.access(repo_root / 'tools' / name, os.X_OK)

    def test_mistakes_are_told_before_anything_is_imported(self, imports):
        code, text, packages = imports('train.py')
        assert code == 2 and 'the following arguments are required: config' in text
        assert not packages & {'torch', 'mmcv', 'numpy', 'projects'}

    @pytest.mark.parametrize('arguments', [
        ['train.py', 'tiny.py'],
        ['train.py', 'tiny.py', '--cfg-options', 'total_epochs=1'],
        ['train.py', 'tiny.py', '--launcher', 'pytorch'],
        ['test_robustness.py', 'tiny.py', 'tiny.py', '--cases', 'lidar_drop'],
    ])
    def test_a_missing_environment_is_told_in_a_sentence(self, repo_root, tmp_path, arguments):
        (tmp_path / 'python').mkdir()
        (tmp_path / 'python/sitecustomize.py').write_text(WITHOUT_MMCV)
        write_config(tmp_path)
        name, *arguments = arguments
        done = subprocess.run([sys.executable, repo_root / 'tools' / name, *arguments], cwd=tmp_path, text=True,
                              capture_output=True, env={**os.environ, 'PYTHONPATH': str(tmp_path / 'python')})
        assert done.returncode == 1 and not done.stdout
        assert done.stderr == (
            f"{sys.executable} has no module 'mmcv': build the environment with {repo_root}/tools/setup_env.sh and "
            f'activate it with `source {repo_root}/.venv/bin/activate`\n')

    @pytest.mark.parametrize('error', [ModuleNotFoundError("No module named 'my_plugin.a'", name='my_plugin.a'),
                                       ModuleNotFoundError('by hand'), ImportError('mmcv'), ValueError('some value')])
    def test_other_errors_pass_through(self, error):

        def main(args):
            raise error

        with pytest.raises(type(error)) as raised:
            command_line.run(lambda: None, main)
        assert raised.value is error

    def test_work_begins_with_the_arguments(self):
        seen = []
        command_line.run(lambda: 'arguments', seen.append)
        assert seen == ['arguments']

    def test_spawned_workers_import_the_plugin_first(self, run_tool, tmp_path):
        """Otherwise mmdet3d refuses the mmcv that is installed."""
        write_config(tmp_path)
        text = run_tool('train.py', 'tiny.py', '--no-validate', '--cfg-options', 'mp_start_method=spawn',
                        'data.workers_per_gpu=1', 'runner.max_epochs=1', cwd=tmp_path)
        assert 'Epoch [1][4/4]' in text


class TestArguments:

    def parse(self, *arguments):
        parser = argparse.ArgumentParser()
        command_line.add_config_arguments(parser)
        command_line.add_process_arguments(parser)
        return parser.parse_args(arguments)

    def test_options_are_typed(self, tmp_path):
        path = str(write_config(tmp_path))
        args = self.parse(path, '--cfg-options', 'a.b=3.0', 'c=[1,2]', 'd=[(1,2),(3,4)]', 'e=None', 'f=name')
        assert args.cfg_options == {'a.b': 3.0, 'c': [1, 2], 'd': [(1, 2), (3, 4)], 'e': None, 'f': 'name'}
        assert args.config == path and args.launcher == 'none' and args.seed == 0 and not args.deterministic

    @pytest.mark.parametrize('arguments, message', [
        (['no.py'], 'argument config: no such file: no.py'),
        ([__file__, '--cfg-options', 'a:3'], "argument --cfg-options: expected key=value, got 'a:3'"),
        ([__file__, '--cfg-options', 'a=[dict(b=1,c=2)]'], 'argument --cfg-options: values may be numbers, words'),
        ([__file__, '--launcher', 'magic'],
         "argument --launcher: invalid choice: 'magic' (choose from 'none', 'pytorch', 'slurm', 'mpi')"),
    ])
    def test_mistakes(self, capsys, arguments, message):
        with pytest.raises(SystemExit) as stop:
            self.parse(*arguments)
        assert stop.value.code == 2 and message in capsys.readouterr().err

    @pytest.mark.parametrize('before, after', [(None, '1'), ('3', '3')])
    def test_the_local_rank_goes_where_torchrun_puts_it(self, monkeypatch, before, after):
        monkeypatch.setenv('LOCAL_RANK', before or '')
        if before is None:
            monkeypatch.delenv('LOCAL_RANK')
        monkeypatch.setattr(sys, 'argv', ['train.py', '--local-rank', '1'])
        parser = argparse.ArgumentParser()
        command_line.add_process_arguments(parser)
        assert command_line.parse_process_arguments(parser).local_rank == 1 and os.environ['LOCAL_RANK'] == after

    def test_failures_are_written_alike(self):
        for given, expected in (('fov:60.0', 'fov:60'), ('object_failure:.50', 'object_failure:0.5'),
                                ('view_drop:03+lidar_drop', 'view_drop:3+lidar_drop'), ('clean', 'clean'),
                                ('view_drop:CAM_FRONT,CAM_BACK', 'view_drop:CAM_FRONT,CAM_BACK')):
            assert str(command_line.failure_case(given)) == expected
        with pytest.raises(argparse.ArgumentTypeError, match=r"'fog' is no failure .*; allowed: clean, .*fov:60"):
            command_line.failure_case('fog')

    def test_checkpoints_may_be_addresses(self, tmp_path):
        assert command_line.existing_checkpoint('https://example.org/a.pth')
        with pytest.raises(argparse.ArgumentTypeError, match='no such file: .*a.pth'):
            command_line.existing_checkpoint(str(tmp_path / 'a.pth'))

    def test_scores_lie_between_0_and_1(self):
        assert [command_line.score(text) for text in ('0', '0.5', '1')] == [0, 0.5, 1]
        for text in ('-0.1', '1.1', 'nan'):
            with pytest.raises(argparse.ArgumentTypeError, match=r'must be in \[0, 1\], got '):
                command_line.score(text)


@pytest.mark.parametrize('name, arguments, message', [
    ('test_robustness.py', ['--controls', 'wild'],
     'argument --controls: control must be one of learned, off, averaged, '),
    ('test_robustness.py', ['--controls', 'off', 'off'], 'argument --controls: must differ, got off, off'),
    ('test_robustness.py', ['--cases', 'fov:60', 'fov:60.0'], 'argument --cases: must differ, got fov:60, fov:60'),
    ('test_robustness.py', ['--cases', 'fog'], "argument --cases: case 'fog': 'fog' is no failure (did you "
     'mean camera_fog or lidar_fog?); allowed: clean, '),
    ('make_synthetic_nuscenes.py', ['--out', 'o', '--version', 'v1.0-test'],
     "argument --version: invalid choice: 'v1.0-test' (choose from 'v1.0-mini', 'v1.0-trainval')"),
    ('make_synthetic_nuscenes.py', ['--out', 'o', '--azimuths', '1'],
     'make_synthetic_nuscenes.py: error: azimuths must be at least 8, got 1'),
    ('ablation.py', ['--seeds', '0', '0'], 'argument --seeds: must differ, got 0, 0'),
    ('ablation.py', ['--arms', 'failures', 'nothing'], "ablation.py: error: arms must be of ['failures', "),
])
def test_mistakes_of_tools_start_nothing(run_tool, tmp_path, name, arguments, message):
    files = ['tiny.py', 'tiny.py'] if name == 'test_robustness.py' else []
    write_config(tmp_path)
    assert message in run_tool(name, *files, *arguments, cwd=tmp_path, code=2)
    assert os.listdir(tmp_path) == ['tiny.py']


NOT_UTF8 = os.fsdecode(b'd\xff')


@pytest.mark.parametrize('name, arguments, argument', [
    ('make_synthetic_nuscenes.py', ['--out', NOT_UTF8], '--out'),
    ('create_data.py', ['nuscenes', '--root-path', NOT_UTF8], '--root-path'),
    ('train.py', ['tiny.py', '--work-dir', f'{NOT_UTF8}/run'], '--work-dir'),
    ('test.py', ['tiny.py', 'tiny.py', '--out', f'{NOT_UTF8}/results.pkl'], '--out'),
    ('test.py', ['tiny.py', 'tiny.py', '--eval', 'bbox', '--cfg-options', 'a=1', f'data.test.data_root={NOT_UTF8}'],
     '--cfg-options'),
    ('test.py', ['tiny.py', 'tiny.py', '--eval', 'bbox', '--cfg-options', f'a=[1,{NOT_UTF8}]'], '--cfg-options'),
    ('sweep.py', [f'{NOT_UTF8}/tiny.py'], 'config'),
])
@pytest.mark.parametrize('locale', ['C', 'C.UTF-8'])
def test_names_that_are_not_utf8_are_refused_before_the_work(repo_root, tmp_path, name, arguments, argument, locale):
    write_config(tmp_path)
    (tmp_path / NOT_UTF8).mkdir()
    write_config(tmp_path / NOT_UTF8)
    done = subprocess.run([sys.executable, repo_root / 'tools' / name, *arguments], cwd=tmp_path, text=True,
                          capture_output=True, env={**os.environ, 'LC_ALL': locale, 'PYTHONIOENCODING': 'utf-8:strict'})
    assert done.returncode == 2 and not done.stdout
    assert f'{name}: error: argument {argument}: ' in done.stderr
    assert "d\\udcff" in done.stderr and 'is not UTF-8, as logs and tables are; rename it' in done.stderr
    assert sorted(os.listdir(tmp_path)) == sorted(['tiny.py', NOT_UTF8])
    assert os.listdir(tmp_path / NOT_UTF8) == ['tiny.py']


def test_work_in_a_folder_whose_name_is_not_utf8(run_tool, tmp_path):
    folder = tmp_path / NOT_UTF8
    folder.mkdir()
    write_config(folder)
    assert 'the name of the current folder' in run_tool('train.py', 'tiny.py', cwd=folder, code=2)
    assert os.listdir(folder) == ['tiny.py']
    assert run_tool('train.py', '--help', cwd=folder).startswith('usage: train.py')


def test_other_alphabets_and_links_are_names(run_tool, tmp_path):
    (tmp_path / NOT_UTF8).mkdir()
    (tmp_path / 'données 数据').symlink_to(tmp_path / NOT_UTF8)
    write_config(tmp_path)
    run_tool('train.py', 'tiny.py', '--work-dir', 'données 数据/run', '--no-validate', '--cfg-options',
             'runner.max_epochs=1', cwd=tmp_path)
    assert (tmp_path / NOT_UTF8 / 'run/latest.pth').exists()
