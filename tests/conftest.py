"""Fixtures shared by all tests. The checkout under test goes on the path: the environment links to no checkout."""
import os
import sys
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO_ROOT))

import pytest  # noqa: E402
import torch  # noqa: E402
from filelock import FileLock  # noqa: E402
from hypothesis import settings  # noqa: E402

import projects.mmdet3d_plugin  # noqa: E402,F401  (must be the first of all mm imports, see its compat.py)

# No deadline: the first example of a test may compile or import. Derandomized: a failure is the same on every machine.
settings.register_profile('repository', deadline=None, derandomize=True, print_blob=True)
settings.load_profile('repository')
torch.set_num_threads(1)  # pytest-xdist fills the cores; it also makes CPU sums repeatable


@pytest.fixture(scope='session')
def repo_root():
    """Path of the checkout under test."""
    return REPO_ROOT


@pytest.fixture(scope='session')
def upstream():
    """Path of the folder with facts about published CMT: configs, key tables, a tiny head with its outputs."""
    return REPO_ROOT / 'tests/data/upstream'


@pytest.fixture(scope='session')
def shared():
    """Path of the folder with reference material beside the checkout; skips where there is none."""
    path = REPO_ROOT.parent / 'shared'
    if not path.is_dir():
        pytest.skip(f'reference material not found: {path}')
    return path


@pytest.fixture(scope='session')
def real_frame(shared):
    """Path of one real nuScenes frame (six images, one LiDAR sweep, calibration and boxes)."""
    path = shared / 'real_frame'
    if not path.is_dir():
        pytest.skip(f'real frame not found: {path}')
    return path


@pytest.fixture(scope='session')
def synthetic_nuscenes(tmp_path_factory):
    """Path of a generated nuScenes set as the quickstart prepares it: tables, samples, info files, object database.

    v1.0-mini, its ten scenes of two samples, images of 400x225. All tests read this one: never write into it.
    """
    from projects.mmdet3d_plugin.datasets.gt_database import create_gt_database
    from projects.mmdet3d_plugin.datasets.nuscenes_infos import create_nuscenes_infos
    from projects.mmdet3d_plugin.synthetic.nuscenes_writer import write_nuscenes
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / 'synthetic_nuscenes'
    with FileLock(f'{folder}.lock'):  # processes of pytest-xdist share the set: the first makes it
        if not (folder / 'nuscenes_dbinfos_train.pkl').exists():
            write_nuscenes(str(folder), 'v1.0-mini', scenes=10, samples_per_scene=2, azimuths=360)
            infos = create_nuscenes_infos(folder, 'v1.0-mini', folder)
            create_gt_database(infos['train'], folder)
    return folder
