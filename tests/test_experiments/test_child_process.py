import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from projects.mmdet3d_plugin.experiments import child_process
from projects.mmdet3d_plugin.experiments.child_process import map_in_children


def make_adder(number, folder):
    print(f'a worker that adds {number}', flush=True)
    (folder / str(os.getpid())).touch()

    def add(job):
        if job == 'die':
            os.kill(os.getpid(), signal.SIGKILL)
        if job == 'fail':
            raise ValueError('cannot add')
        while job == 0 and len(list(folder.iterdir())) < 2:  # the first job waits for a second process
            time.sleep(0.05)
        return job + number

    return add


def test_jobs_are_shared_among_processes(tmp_path):
    (tmp_path / 'processes').mkdir()
    arguments = 10, tmp_path / 'processes'
    results = dict(map_in_children(make_adder, arguments, list(range(20)), 2, tmp_path / 'log/a.txt'))
    assert results == {job: job + 10 for job in range(20)}
    processes = {path.name for path in (tmp_path / 'processes').iterdir()}
    assert len(processes) == 2 and str(os.getpid()) not in processes
    assert (tmp_path / 'log/a.txt').read_text().count('a worker that adds 10') == 2


def test_failures_reach_the_parent(tmp_path):
    with pytest.raises(ValueError, match='cannot add'):
        list(map_in_children(make_adder, (1, tmp_path), ['fail'], 1, tmp_path / 'log.txt'))
    with pytest.raises(RuntimeError, match='a process was killed or could not start, see .*log.txt'):
        list(map_in_children(make_adder, (1, tmp_path), ['die'], 1, tmp_path / 'log.txt'))


def test_processes_end_with_their_parent(tmp_path):
    """A parent that is killed leaves none behind that would go on writing into its folder."""
    script = tmp_path / 'parent.py'
    script.write_text(f"""
import os, sys, time
sys.path.insert(0, {os.path.dirname(child_process.__file__)!r})
from child_process import map_in_children

def make():
    open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))
    return time.sleep

if __name__ == '__main__':
    list(map_in_children(make, (), [600], 1, {str(tmp_path / 'log')!r}))
""")
    parent = subprocess.Popen([sys.executable, script])
    try:
        deadline = time.monotonic() + 300
        while not ((tmp_path / 'pid').exists() and (tmp_path / 'pid').read_text()):
            assert parent.poll() is None and time.monotonic() < deadline, (tmp_path / 'log').read_text()
            time.sleep(0.1)
        child = int((tmp_path / 'pid').read_text())
    finally:
        parent.kill()
        parent.wait()
    while Path(f'/proc/{child}').exists() and 'Z' not in Path(f'/proc/{child}/stat').read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
