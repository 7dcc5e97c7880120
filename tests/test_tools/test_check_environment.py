"""What tools/setup_env.sh asks of an environment, and how it tells a package that pip was killed at."""
import importlib
import subprocess
import sys
import zipfile

import pytest
import torch

RECORD = ''.join(f'{name},,\n' for name in (
    'tiny.py', *(f'tiny-1.0.dist-info/{name}' for name in ('METADATA', 'WHEEL', 'entry_points.txt', 'RECORD'))))


@pytest.fixture
def check_environment(repo_root, monkeypatch):
    """The module of the tool."""
    monkeypatch.syspath_prepend(repo_root / 'tools')
    return importlib.import_module('check_environment')


@pytest.fixture
def install(tmp_path):
    """Install a small package with a script into an environment of its own; returns the folder of the environment."""
    wheel, environment = tmp_path / 'tiny-1.0-py3-none-any.whl', tmp_path / 'environment'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('tiny.py', 'def main(): print(42)\n')
        for name, text in (
            ('METADATA', 'Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n'), ('RECORD', RECORD),
            ('WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n'),
            ('entry_points.txt', '[console_scripts]\ntiny = tiny:main\n')
        ):
            archive.writestr(f'tiny-1.0.dist-info/{name}', text)
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', environment], check=True)

    def run():
        subprocess.run([sys.executable, '-m', 'pip', '--python', environment / 'bin/python', 'install', '--no-index',
                        '--find-links', tmp_path, 'tiny==1.0'], check=True, capture_output=True)
        return environment

    return run


def site_of(environment):
    site, = environment.glob('lib/python*/site-packages')
    return site


@pytest.mark.parametrize('cut', [
    lambda site: (site / 'tiny-1.0.dist-info/RECORD').write_text(RECORD),  # while pip compiles or writes scripts
    lambda site: (site / 'tiny-1.0.dist-info/RECORD').unlink(),  # while it copies
    lambda site: (site / 'tiny.py').unlink(),  # while it removes another version
])
def test_what_pip_was_killed_at_is_installed_anew(repo_root, check_environment, install, cut):
    environment = install()
    script, site = environment / 'bin/tiny', site_of(environment)
    assert check_environment.half_installed(site) == []
    cut(site)
    script.unlink()
    assert check_environment.half_installed(site) == [site / 'tiny-1.0.dist-info']
    install()
    assert not script.exists()  # pip takes it for installed
    done = subprocess.run([environment / 'bin/python', repo_root / 'tools/check_environment.py',
                           '--forget-half-installed'], check=True, capture_output=True, text=True)
    assert done.stdout == 'tiny-1.0 was half installed\n'
    install()
    assert subprocess.run([script], check=True, capture_output=True, text=True).stdout == '42\n'
    assert check_environment.half_installed(site) == []


def test_byte_code_may_be_missing(check_environment, install):
    site = site_of(install())
    cached = list(site.rglob('*.pyc'))
    assert cached
    for path in cached:
        path.unlink()
    assert check_environment.half_installed(site) == []


def test_pins_are_known_by_their_names(check_environment):
    names = check_environment.pinned_names()
    assert {'torch', 'mmcv-full', 'nuscenes-devkit', 'lyft-dataset-sdk', 'setuptools', 'pyyaml'} <= names


def test_the_environment_of_the_tests_passes(run_tool, tmp_path):
    run_tool('check_environment.py', cwd=tmp_path, fresh=True)


@pytest.mark.parametrize('name, wrong, message', [
    ('mmcv.ops.nms', lambda boxes, scores, threshold: (boxes, scores.argsort()), 'nms of mmcv and torchvision keep'),
    ('spconv.pytorch.SparseConvTensor.dense', lambda volume: torch.zeros(2, 1, 2, 2, 1), 'spconv spreads'),
    ('mmdet.models.backbones.resnet.cp.checkpoint', lambda block, x: block(x).detach(), 'gets no gradient'),
])
def test_what_computes_something_else_is_said(check_environment, monkeypatch, name, wrong, message):
    monkeypatch.setattr(name, wrong)
    with pytest.raises(RuntimeError, match=message):
        check_environment.compute()
