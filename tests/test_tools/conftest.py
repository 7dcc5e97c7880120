import logging
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import traceback
from types import SimpleNamespace

import mmcv.runner.epoch_based_runner
import mmcv.utils.logging
import pytest

from tests.tiny_detector import write_config


@pytest.fixture(scope='session')
def run_tool(repo_root, tmp_path_factory):
    """Run a script of tools/ in a process of its own and return all that it printed.

    Python scripts start in a fork of this process, which has the imports behind it; `fresh=True` starts a new
    interpreter, as a user does. `code` is the expected exit code, None stands for any but 0.
    """

    def run(name, *arguments, cwd, code=0, fresh=False):
        script, arguments = str(repo_root / 'tools' / name), [str(argument) for argument in arguments]
        log = tmp_path_factory.mktemp('tool') / 'output.txt'
        with open(log, 'w') as output:
            if fresh or name.endswith('.sh'):
                command = [script, *arguments] if name.endswith('.sh') else [sys.executable, script, *arguments]
                returned = subprocess.run(command, cwd=cwd, env=_environment(), stdout=output, stderr=output).returncode
            else:
                process = multiprocessing.get_context('fork').Process(
                    target=_run_forked, args=(script, arguments, cwd, output.fileno()))
                process.start()
                process.join()
                returned = process.exitcode
        printed = log.read_text()
        assert (returned != 0) if code is None else (returned == code), printed
        return printed

    return run


def _environment():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PORT': port, 'PYTHON': sys.executable, 'PYTHONWARNINGS': 'ignore'}


def _run_forked(script, arguments, cwd, output):
    os.dup2(output, 1), os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, 'w', buffering=1), os.fdopen(2, 'w', buffering=1)
    for name in mmcv.utils.logging.logger_initialized:
        logging.getLogger(name).handlers.clear()
    mmcv.utils.logging.logger_initialized.clear()
    mmcv.runner.epoch_based_runner.time = SimpleNamespace(sleep=lambda seconds: None)  # two seconds an epoch
    os.chdir(cwd)
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(script))  # as the interpreter does
    try:
        runpy.run_path(script, run_name='__main__')
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        os._exit(1 if isinstance(stop.code, str) else stop.code or 0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


@pytest.fixture(scope='session')
def trained(run_tool, tmp_path_factory):
    """Folder in which the tiny config was trained with all defaults."""
    folder = tmp_path_factory.mktemp('trained')
    run_tool('train.py', write_config(folder).name, cwd=folder, fresh=True)
    return folder
