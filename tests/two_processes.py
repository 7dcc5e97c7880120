"""Two real processes over gloo, for tests of what several processes do together."""
import os
import socket

import torch
import torch.distributed as dist

from projects.mmdet3d_plugin.apis import distributed


def on_two_processes(function, tmp_path, monkeypatch, launcher='pytorch'):
    """Run `function(rank)` in two processes with a process group and return what the two return."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        monkeypatch.setenv('MASTER_PORT', str(free.getsockname()[1]))
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.chdir(tmp_path)
    for name in distributed.LAUNCHER_VARIABLES['pytorch']:
        monkeypatch.delenv(name, raising=False)
    torch.multiprocessing.start_processes(_in_process, (function, launcher), nprocs=2, start_method='fork')
    return [torch.load(tmp_path / f'rank_{rank}.pth', weights_only=False) for rank in range(2)]


def _in_process(rank, function, launcher):
    for name, value in zip(distributed.LAUNCHER_VARIABLES[launcher], (rank, 2, rank)):
        os.environ[name] = str(value)
    assert distributed.init_distributed(launcher, backend='nccl')  # as published configs say; no CUDA here: gloo
    assert dist.get_backend() == 'gloo' and (dist.get_rank(), dist.get_world_size()) == (rank, 2)
    torch.save(function(rank), f'rank_{rank}.pth')
    dist.destroy_process_group()
