"""The package as users install it: what lands in site-packages, the ways of use, both names, foreign `projects`."""
import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import PurePosixPath

import pytest

from projects.mmdet3d_plugin.visualization.rerun_recording import REQUIREMENTS

# What CMT's own checkout has at this path, as far as it matters here: a package that registers the same names.
FOREIGN = """
from mmdet3d.models.builder import DETECTORS
import torch
@DETECTORS.register_module()
class CmtDetector(torch.nn.Module):
    pass
print('FOREIGN PLUGIN LOADED')
"""
BUILD = """
from mmdet3d.models import build_model
cfg.model.img_backbone.update(init_cfg=None, pretrained=None)
print(type(build_model(cfg.model)).__module__)
"""


def copy_sources(repo_root, folder):
    """What an installation needs."""
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(repo_root / name, folder)
    shutil.copytree(repo_root / 'projects', folder / 'projects', ignore=shutil.ignore_patterns('__pycache__'))


def install(interpreter, *arguments):
    subprocess.run([interpreter, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-build-isolation',
                    '--disable-pip-version-check', *map(str, arguments)], check=True)


@pytest.fixture(scope='module')
def site(repo_root, tmp_path_factory):
    """Folder into which pip installed the package, from a copy of the sources: builds leave traces in them."""
    source, target = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('site')
    copy_sources(repo_root, source)
    install(sys.executable, '--target', target, source)
    return target


@pytest.fixture(scope='module')
def wheel(repo_root, tmp_path_factory):
    """The wheel that pip builds from a copy of the sources."""
    source, target = tmp_path_factory.mktemp('wheel_source'), tmp_path_factory.mktemp('wheel')
    copy_sources(repo_root, source)
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation',
                    '--disable-pip-version-check', '--wheel-dir', target, source], check=True)
    path, = target.iterdir()
    return path


@pytest.fixture
def venv(tmp_path):
    """Interpreter of a new virtual environment that sees the packages of this one."""
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(tmp_path / 'venv')], check=True)
    own, = (tmp_path / 'venv/lib').glob('python*/site-packages')
    environment, = (path for path in sys.path if path.endswith('site-packages'))
    (own / 'environment.pth').write_text(f'{environment}\n')
    return tmp_path / 'venv/bin/python'


@pytest.fixture
def cmt_checkout(repo_root, tmp_path):
    """A folder like a checkout of CMT: its own plugin, and a published config unchanged."""
    plugin = tmp_path / 'CMT/projects/mmdet3d_plugin'
    plugin.mkdir(parents=True)
    (plugin.parent / '__init__.py').write_text('')
    (plugin / '__init__.py').write_text(FOREIGN)
    name = 'cmt_voxel0100_r50_800x320_cbgs'
    text = (repo_root / f'tests/data/upstream/{name}.config.txt').read_text()
    values = '\n'.join(f'{key} = {value!r}' for key, value in eval(text).items())  # a literal of ours
    (tmp_path / 'CMT' / f'{name}.py').write_text(values)
    return tmp_path / 'CMT'


def python(code, cwd, *path):
    """Run code in a new process: these folders on PYTHONPATH, this one the current."""
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, path)), 'PYTHONWARNINGS': 'ignore',
                   'OMP_NUM_THREADS': '1'}
    return subprocess.run([sys.executable, '-c', code], cwd=cwd, env=environment, capture_output=True, text=True)


def test_what_is_installed(site):
    found = {path.name for path in site.iterdir() if path.name != '__pycache__'}
    assert 'cmt_aqr' in found and 'projects' not in found
    assert {name for name in found if not name.endswith('.dist-info')} == {'cmt_aqr'}
    assert (site / 'cmt_aqr/models/utils/attention_bias_generator.py').is_file()
    assert not list(site.rglob('test_*'))


def test_every_package_of_the_checkout_is_installed(repo_root, site):
    plugin = repo_root / 'projects/mmdet3d_plugin'
    expected = {path.relative_to(plugin) for path in plugin.rglob('*.py')}
    assert {path.relative_to(site / 'cmt_aqr') for path in (site / 'cmt_aqr').rglob('*.py')} == expected


def test_by_custom_imports(repo_root, site, tmp_path):
    """A config of another mm project names the package and uses its parts."""
    (tmp_path / 'config.py').write_text(
        "custom_imports = dict(imports=['cmt_aqr'], allow_failed_imports=False)\n"
        "attention = dict(type='PETRMultiheadFlashAttention', embed_dims=64, num_heads=4)\n")
    done = python("""
from mmcv import Config
cfg = Config.fromfile('config.py')
from mmcv.cnn.bricks.transformer import build_attention
print(type(build_attention(cfg.attention)).__module__)
""", tmp_path, site)
    assert done.stdout == 'cmt_aqr.models.utils.transformer.petr_attention\n', done.stderr


@pytest.mark.parametrize('before', [True, False], ids=['foreign first', 'foreign last'])
def test_by_plugin_dir_in_a_checkout_of_cmt(site, cmt_checkout, before):
    """CMT's plugin is on the path, before or after ours, and is not what its config gets from us."""
    path = [cmt_checkout, site] if before else [site, cmt_checkout]
    done = python(f"""
from cmt_aqr.apis import load_config
cfg = load_config('cmt_voxel0100_r50_800x320_cbgs.py')
{BUILD}
import sys
assert 'projects' not in sys.modules
""", cmt_checkout, *path)
    assert done.stdout.splitlines()[-1:] == ['cmt_aqr.models.detectors.cmt'], done.stderr
    assert 'FOREIGN' not in done.stdout
    assert "plugin_dir='projects/mmdet3d_plugin/' is served by cmt-aqr" in done.stderr


@pytest.mark.parametrize('before', [True, False], ids=['foreign first', 'foreign last'])
def test_tools_of_our_checkout_in_a_checkout_of_cmt(repo_root, cmt_checkout, before):
    """Run as tools are: with the checkout's root put first on the path by the tool itself."""
    done = python(f"""
import sys
sys.path.insert(0, {str(repo_root)!r})
from projects.mmdet3d_plugin.apis import load_config
cfg = load_config('cmt_voxel0100_r50_800x320_cbgs.py')
{BUILD}
""", cmt_checkout, *([cmt_checkout] if before else []))
    assert done.stdout.splitlines()[-1:] == ['projects.mmdet3d_plugin.models.detectors.cmt'], done.stderr


def test_another_plugin_first(site, cmt_checkout):
    """One clear sentence instead of a KeyError."""
    done = python('import projects.mmdet3d_plugin; import cmt_aqr', cmt_checkout, cmt_checkout, site)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('ImportError: cmt_aqr cannot register its parts') and 'CMT/projects/mmdet3d_plugin' in last
    assert 'CmtDetector is already registered' in last


def test_another_plugin_afterwards(site, tmp_path):
    (tmp_path / 'other_plugin').mkdir()
    (tmp_path / 'other_plugin/__init__.py').write_text(FOREIGN)
    (tmp_path / 'config.py').write_text("plugin = True\nplugin_dir = 'other_plugin/'\n")
    done = python("from cmt_aqr.apis import load_config; load_config('config.py')", tmp_path, site, tmp_path)
    assert done.stderr.strip().splitlines()[-1].startswith('ImportError: other_plugin cannot register its parts')


@pytest.mark.parametrize('first, second', [('cmt_aqr', 'projects.mmdet3d_plugin'),
                                           ('projects.mmdet3d_plugin', 'cmt_aqr')])
def test_both_names_are_one_package(repo_root, tmp_path, first, second):
    """As after an editable install: the same folder under both names, submodules that come later included."""
    (tmp_path / 'cmt_aqr').symlink_to(repo_root / 'projects/mmdet3d_plugin')
    done = python(f"""
import {first}, {second}
from {second}.apis.train import train_detector as b
from {first}.apis.train import train_detector as a
import {second}.apis.routing_snapshot
import {first}.experiments.ablation
assert {second} is {first} and a is b and a.__module__ == '{first}.apis.train'
import sys
snapshots = [sys.modules[f'{{name}}.apis.routing_snapshot'] for name in ('{first}', '{second}')]
assert snapshots[0] is snapshots[1] and snapshots[0].__name__ == '{first}.apis.routing_snapshot'
assert sys.modules['{first}.apis.train'].__spec__.name == '{first}.apis.train'
from mmdet.models import HEADS
print(HEADS.get('CmtHead').__module__)
""", tmp_path, tmp_path, repo_root)
    assert done.stdout == f'{first}.models.dense_heads.cmt_head\n', done.stderr


def test_two_copies_are_refused_in_one_sentence(repo_root, site):
    done = python('import cmt_aqr, projects.mmdet3d_plugin', site, site, repo_root)
    assert 'ImportError: this process has loaded cmt-aqr as cmt_aqr' in done.stderr and 'Use one of them' in done.stderr


def test_mmdet3d_imports_in_any_order(tmp_path):
    """tools/setup_env.sh lifts its bound on mmcv."""
    for code in ('import mmdet3d', 'import mmdet3d.apis, mmdet3d.datasets, mmdet3d.models'):
        done = python(code, tmp_path)
        assert done.returncode == 0, done.stderr


def test_lines_of_python_in_the_readme(repo_root, site, tmp_path):
    """The README's snippet runs as it stands."""
    readme = (repo_root / 'README.md').read_text()
    snippet = readme.split('```python\n')[1].split('```')[0]
    assert len(snippet.strip().splitlines()) <= 8
    done = python(snippet, tmp_path, site)
    assert done.returncode == 0, done.stderr


def test_an_editable_install(repo_root, venv, tmp_path):
    """Gives the package its name and puts nothing else of the checkout on the path."""
    source = tmp_path / 'checkout'
    source.mkdir()
    copy_sources(repo_root, source)
    install(venv, '--editable', source)
    done = subprocess.run([venv, '-W', 'ignore', '-c', """
import importlib.util, cmt_aqr
print(cmt_aqr.__file__)
specs = [importlib.util.find_spec(name) for name in ('projects', 'tests', 'tools', 'configs', 'setup')]
print([spec for spec in specs if spec and 'checkout' in str(spec)])
"""], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(source / 'projects/mmdet3d_plugin/__init__.py'), '[]'], done.stderr


def test_the_wheel_holds_all_of_the_package_and_says_what_it_needs(repo_root, wheel):
    """Whatever lies in the package is in the wheel, beside the license; the page of a report is part of its module."""
    plugin = repo_root / 'projects/mmdet3d_plugin'
    files = (path.relative_to(plugin) for path in plugin.rglob('*') if path.is_file())
    with zipfile.ZipFile(wheel) as archive:
        names = [PurePosixPath(name) for name in archive.namelist()]
        info, = {name.parts[0] for name in names if name.parts[0].endswith('.dist-info')}
        metadata = email.message_from_bytes(archive.read(f'{info}/METADATA'))
    assert {name.relative_to('cmt_aqr') for name in names if name.parts[0] == 'cmt_aqr'} == {
        path for path in files if '__pycache__' not in path.parts}
    assert {name.parts[0] for name in names} == {'cmt_aqr', info} and 'LICENSE' in {name.name for name in names}
    assert metadata['Name'] == 'cmt-aqr' and wheel.name == f'cmt_aqr-{metadata["Version"]}-py3-none-any.whl'
    needed = {tuple(part.strip() for part in line.split(';')) for line in metadata.get_all('Requires-Dist')}
    assert needed == {(name, 'extra == "viewer"') for name in REQUIREMENTS}


def test_the_wheel_in_a_clean_environment(repo_root, wheel, venv, tmp_path):
    """It builds a head of a config by its name and writes a report."""
    install(venv, wheel)
    done = subprocess.run([venv, '-W', 'ignore', '-c', f"""
from cmt_aqr.apis import load_config
from cmt_aqr.visualization.html_report import write_report
from mmdet.models import build_head
import cmt_aqr
cfg = load_config({str(repo_root / 'configs/cmt_aqr_synthetic.py')!r})
print(cmt_aqr.__file__, type(build_head(cfg.model.pts_bbox_head)).__module__)
write_report('report.html', 'From a wheel', [], [])
"""], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    package, module = done.stdout.split() or [done.stderr, '']
    assert package.startswith(str(tmp_path / 'venv/lib')) and module == 'cmt_aqr.models.dense_heads.cmt_head'
    assert '<h1>From a wheel</h1>' in (tmp_path / 'report.html').read_text()


def test_every_config_loads_with_the_installed_package(repo_root, site, tmp_path):
    done = python(f"""
from pathlib import Path
from cmt_aqr.apis import load_config
for path in sorted(Path({str(repo_root / 'configs')!r}).glob('*.py')):
    load_config(path)
from mmdet.models import HEADS
print(HEADS.get('FeatureModulationHead').__module__)
""", tmp_path, site)
    assert done.stdout.splitlines()[-1:] == ['cmt_aqr.experiments.feature_modulation'], done.stderr
