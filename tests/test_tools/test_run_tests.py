"""tools/run_tests.sh in a project whose environment and whose Python only print what they are asked to do."""
import os
import shutil
import subprocess

import pytest


def write_script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)


@pytest.fixture()
def project(repo_root, tmp_path):
    project = tmp_path / 'project'
    write_script(project / 'tools' / 'setup_env.sh', 'true')
    write_script(project / '.venv' / 'bin' / 'python', 'echo venv "$PWD"; printf "%s\\n" "$@"')
    write_script(tmp_path / 'active' / 'python', 'echo active "$PWD"')
    (project / 'tests').mkdir()
    (project / 'tests' / 'test_one.py').touch()
    shutil.copy(repo_root / 'tools' / 'run_tests.sh', project / 'tools')
    return project


def run(project, *arguments, cwd, **variables):
    environment = {key: value for key, value in os.environ.items() if key not in ('PYTHON', 'CMT_AQR_ACTIVE')}
    return subprocess.run([project / 'tools' / 'run_tests.sh', *arguments], cwd=cwd, check=True, capture_output=True,
                          text=True, env={**environment, **variables}).stdout.splitlines()


@pytest.mark.parametrize('folder, paths', [
    ('.', ['tests/test_one.py', 'tests/test_one.py::test_a']),
    ('tests', ['test_one.py', 'test_one.py::test_a']),
    ('..', ['project/tests/test_one.py', 'project/tests/test_one.py::test_a']),
])
def test_paths_are_relative_to_the_current_folder(project, folder, paths):
    first, *arguments = run(project, '-x', *paths, cwd=project / folder)
    assert first == f'venv {project}'
    found = [os.path.normpath(argument) for argument in arguments[-2:]]
    assert found == [f'{project}/tests/test_one.py', f'{project}/tests/test_one.py::test_a']


def test_other_arguments_stay(project, tmp_path):
    arguments = ['tests/test_one.py', '-k', 'project', '-n', '0', f'{tmp_path}/project']
    assert run(project, *arguments, cwd=tmp_path)[-6:] == arguments
    assert run(project, cwd=tmp_path)[-1] == '--durations=15'


def test_the_active_python(project, tmp_path):
    path = f'{tmp_path}/active:{os.environ["PATH"]}'
    assert run(project, cwd=tmp_path, CMT_AQR_ACTIVE='1', PATH=path) == [f'active {project}']
    assert run(project, cwd=tmp_path, CMT_AQR_ACTIVE='1', PYTHON=f'{tmp_path}/active/python')[0] == f'active {project}'
    assert run(project, cwd=tmp_path, PATH=path)[0] == f'venv {project}'
