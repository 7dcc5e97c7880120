"""Processes and devices: everything that mmcv 1.x and mmdet 2.x take for granted about CUDA, adapted in this one file.

With CUDA the calls below are mmcv's own. Without it (docs/design.md, "The software stack"):

- `mmcv.runner.init_dist` computes rank modulo the number of GPUs, a division by zero: `init_distributed`.
- `MMDistributedDataParallel` leaves DataContainers packed when it has no device ids: `DistributedDataParallel`.
- its `forward` reads an attribute that torch 2.1 removed, with or without CUDA: the same class.
- collecting results exchanges the folder's name in a CUDA tensor unless it is given: `multi_process_test`.
"""
import os
import subprocess
import tempfile

import torch
import torch.distributed as dist
from mmcv.parallel import MMDataParallel, MMDistributedDataParallel
from mmcv.parallel.scatter_gather import scatter_kwargs
from mmcv.runner import get_dist_info, init_dist
from mmdet.apis import init_random_seed, multi_gpu_test, set_random_seed

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')

# Environment variables in which each launcher gives rank, number of processes and rank on this machine.
LAUNCHER_VARIABLES = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'))

_CPU_DEVICE_IDS = [-1]  # mmcv's convention for "unpack DataContainers, move nothing"


def default_device():
    """'cuda' where torch sees a GPU (hide it with CUDA_VISIBLE_DEVICES=), otherwise 'cpu'."""
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def on_default_device(batch):
    """A collated batch without its DataContainers, on `default_device`."""
    return scatter_kwargs((), batch, [0] if default_device() == 'cuda' else _CPU_DEVICE_IDS)[1][0]


def init_distributed(launcher, backend='nccl', **kwargs):
    """Join the process group that `launcher` describes in the environment; without CUDA always over gloo.

    Args:
        launcher (str): 'none' (one process, nothing happens), 'pytorch' (torchrun), 'slurm' or 'mpi'.
        backend (str): torch.distributed backend where CUDA is available.
        **kwargs: further `dist_params` of the config, for `torch.distributed.init_process_group`.

    Returns:
        bool: whether there is a process group.

    Raises:
        ValueError: unknown launcher.
        KeyError: the launcher's environment variables are not set.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f'launcher must be one of {LAUNCHERS}, got {launcher!r}')
    if launcher == 'none':
        return False
    names = LAUNCHER_VARIABLES[launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise KeyError(f'launcher {launcher!r} needs the environment variables {missing}: start the script with '
                       'tools/dist_train.sh or tools/dist_test.sh, torchrun, srun or mpirun')
    if torch.cuda.is_available():
        init_dist(launcher, backend=backend, **kwargs)
        return True
    for name, source in zip(LAUNCHER_VARIABLES['pytorch'], names):
        os.environ[name] = os.environ[source]
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        hosts = subprocess.run(['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']],
                               check=True, capture_output=True, text=True).stdout
        os.environ['MASTER_ADDR'] = hosts.split()[0]
    os.environ['MASTER_PORT'] = str(kwargs.pop('port', os.environ.get('MASTER_PORT', 29500)))
    dist.init_process_group(backend='gloo', **kwargs)
    return True


class DistributedDataParallel(MMDistributedDataParallel):
    """mmcv's wrapper that unpacks DataContainers with and without device ids, in all three ways to call it."""

    def _unpack(self, inputs, kwargs):
        inputs, kwargs = scatter_kwargs(inputs, kwargs, self.device_ids or _CPU_DEVICE_IDS, dim=self.dim)
        return inputs[0], kwargs[0]

    def _run_ddp_forward(self, *inputs, **kwargs):
        inputs, kwargs = self._unpack(inputs, kwargs)
        return self.module(*inputs, **kwargs)

    def train_step(self, *inputs, **kwargs):
        if not self.device_ids:  # with device ids mmcv unpacks
            inputs, kwargs = self._unpack(inputs, kwargs)
        return super().train_step(*inputs, **kwargs)

    def val_step(self, *inputs, **kwargs):
        if not self.device_ids:
            inputs, kwargs = self._unpack(inputs, kwargs)
        return super().val_step(*inputs, **kwargs)


def wrap_model(model, distributed=False, gpu_id=0, find_unused_parameters=False):
    """Move a model to its device and wrap it so that it takes the batches of mmdet's data loaders.

    Args:
        model (nn.Module): detector with `train_step`.
        distributed (bool): whether there is a process group (`init_distributed`).
        gpu_id (int): GPU of a single process; the GPUs of a process group follow from the launcher.
        find_unused_parameters (bool): see `torch.nn.parallel.DistributedDataParallel`.

    Returns:
        nn.Module: the wrapped model.
    """
    on_gpu = default_device() == 'cuda'
    if not distributed:
        return MMDataParallel(model.cuda(gpu_id) if on_gpu else model, device_ids=[gpu_id] if on_gpu else None)
    # broadcast_buffers: BatchNorm statistics stay with each process, as in all mm projects.
    return DistributedDataParallel(
        model.cuda() if on_gpu else model,
        device_ids=[torch.cuda.current_device()] if on_gpu else None,
        broadcast_buffers=False,
        find_unused_parameters=find_unused_parameters)


def check_gpu_collect(gpu_collect):
    """Raise ValueError where results are to be collected through GPUs that are not there."""
    if gpu_collect and not torch.cuda.is_available():
        raise ValueError('gpu_collect=True needs CUDA, which is not available; allowed here: False')


def multi_process_test(model, data_loader, tmpdir=None, gpu_collect=False):
    """Run a wrapped model over every process's share of a dataset and collect the results.

    Args:
        model (nn.Module): from `wrap_model(..., distributed=True)`.
        data_loader (DataLoader): with a distributed sampler that does not shuffle.
        tmpdir (str): folder, visible to all processes, through which results go; default: a new one in ./
        gpu_collect (bool): collect through GPU memory instead.

    Returns:
        list | None: one result a sample, in the dataset's order, on rank 0; None on the others.
    """
    check_gpu_collect(gpu_collect)
    if tmpdir is None and not gpu_collect:
        names = [None]
        if get_dist_info()[0] == 0:
            names = [tempfile.mkdtemp(prefix='.dist_test_', dir='.')]  # mmdet removes it
        dist.broadcast_object_list(names, src=0)
        tmpdir = names[0]
    return multi_gpu_test(model, data_loader, tmpdir, gpu_collect)


def seed_everything(seed=None, diff_seed=False, deterministic=False):
    """Seed python, numpy and torch alike in all processes.

    Args:
        seed (int): None draws one, the same for all processes.
        diff_seed (bool): add the rank to the seed, so that processes draw different numbers.
        deterministic (bool): cuDNN without autotuning and torch's deterministic algorithms where it has them (a warning
            names those that it lacks). On CPU too: adding at repeated indices otherwise depends on the threads.

    Returns:
        int: the seed without the rank; samplers need it, which deal out the samples in the same order everywhere.
    """
    seed = init_random_seed(seed, device=default_device())
    set_random_seed(seed + get_dist_info()[0] if diff_seed else seed, deterministic=deterministic)
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # cuBLAS is deterministic only with this
        torch.use_deterministic_algorithms(True, warn_only=True)
    return seed
