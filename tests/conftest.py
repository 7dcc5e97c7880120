"""Fixtures shared by all tests. The checkout under test goes on the path: the environment links to no checkout."""
import sys
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO_ROOT))

import projects.mmdet3d_plugin  # noqa: E402,F401  (must be the first of all mm imports, see its compat.py)

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# No deadline: the first example of a test may compile or import. Derandomised: a failure is the same on every machine.
settings.register_profile('repository', deadline=None, derandomize=True, print_blob=True)
settings.load_profile('repository')
torch.set_num_threads(1)  # pytest-xdist fills the cores; it also makes CPU sums repeatable


@pytest.fixture(scope='session')
def repo_root():
    """Path of the checkout under test."""
    return REPO_ROOT


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
