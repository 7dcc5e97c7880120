import multiprocessing
import os
import signal

import pytest

from projects.mmdet3d_plugin.utils.run_lock import LOCK_FILE, run_lock


def hold(folder, ready):
    with run_lock(folder):
        child = multiprocessing.get_context('fork').Process(target=signal.pause)  # as a worker of a data loader
        child.start()
        ready.send(child.pid)
        signal.pause()


@pytest.fixture
def other_run(tmp_path):
    """A process that is in the lock of `tmp_path`, and the process id of a child of it."""
    context = multiprocessing.get_context('fork')
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path, there))
    process.start()
    child = here.recv()
    yield process, child
    process.kill()
    os.kill(child, signal.SIGKILL)


def test_a_second_run_is_told_of_the_first(tmp_path, other_run):
    with pytest.raises(RuntimeError, match=f'{tmp_path} is in use by another run .process {other_run[0].pid} on '):
        with run_lock(tmp_path):
            raise AssertionError('entered')


def test_a_killed_run_holds_nothing_even_where_its_workers_live_on(tmp_path, other_run):
    other_run[0].kill()
    other_run[0].join()
    assert os.listdir(tmp_path) == [LOCK_FILE]
    with run_lock(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text().startswith(f'process {os.getpid()} on ')
    assert os.listdir(tmp_path) == []
