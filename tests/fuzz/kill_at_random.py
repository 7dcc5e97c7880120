#!/usr/bin/env python
"""Kill long commands at random moments and let them go on: tests/fuzz/kill_at_random.py [--kills 5] [--seed 0]

Each command runs once undisturbed. Then, as often as asked, it is started in a new folder, killed with all of its
processes (SIGKILL) at a random moment, and started again, which must end with what the undisturbed run gave. Prints a
line for each kill and ends with 1 if any result differs.
"""
import argparse
import hashlib
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'


def tree(folder):
    """Contents of all files below a folder, by name."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob('*')) if path.is_file()}


def weights(folder):
    import torch
    state = torch.load(folder / 'run/latest.pth', weights_only=True)['state_dict']
    return {name: value.numpy().tobytes() for name, value in state.items()}


def boxes(folder):
    found = pickle.loads((folder / 'results.pkl').read_bytes())
    return [result['pts_bbox']['boxes_3d'].tensor.numpy().tobytes() for result in found]


def data_options():
    """Settings that read the data in the folder of a command."""
    return [f'data.{split}.{name}' for split, infos in (('train', 'train'), ('val', 'val'), ('test', 'val'))
            for name in ('data_root=data/', f'ann_file=data/nuscenes_infos_{infos}.pkl')]


def commands():
    """Name -> (arguments, what the folder must hold before, what the result is)."""
    python, config = sys.executable, str(ROOT / 'configs/cmt_aqr_synthetic.py')
    options = ['--cfg-options', *data_options(), 'log_config.interval=1']
    return {
        'data generation': ([python, TOOLS / 'make_synthetic_nuscenes.py', '--out', 'data', '--version', 'v1.0-mini',
                             '--scenes', '3', '--val-scenes', '1', '--samples-per-scene', '3', '--azimuths', '360',
                             '--image-width', '200'], None, lambda folder: tree(folder / 'data')),
        'info files': ([python, TOOLS / 'create_data.py', 'nuscenes', '--root-path', 'data', '--version', 'v1.0-mini'],
                       'data generation', lambda folder: tree(folder / 'data')),
        'training': ([python, TOOLS / 'train.py', config, '--work-dir', 'run', '--auto-resume', '--no-validate',
                      *options, 'total_epochs=4', 'data.samples_per_gpu=2', 'data.workers_per_gpu=1',
                      f'load_from={ROOT / "checkpoints/cmt_synthetic.pth"}'], 'info files', weights),
        'test': ([python, TOOLS / 'test.py', config, ROOT / 'checkpoints/cmt_synthetic.pth', '--out', 'results.pkl',
                  '--eval', 'bbox', *options], 'info files', boxes),
    }


def start(arguments, folder):
    with open(folder / 'log.txt', 'a') as log:
        return subprocess.Popen([str(argument) for argument in arguments], cwd=folder, stdout=log, stderr=log,
                                start_new_session=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})


def run(arguments, folder):
    """Seconds that a command takes."""
    begin = time.monotonic()
    if start(arguments, folder).wait():
        raise RuntimeError((folder / 'log.txt').read_text()[-3000:])
    return time.monotonic() - begin


def prepared(base, name, needs):
    """A new folder with what a command needs."""
    folder = Path(tempfile.mkdtemp(prefix=name.replace(' ', '_'), dir=base))
    if needs is not None:
        shutil.copytree(base / needs / 'data', folder / 'data')
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=5, help='kills of each command (default: 5)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments (default: 0)')
    args = parser.parse_args()
    draw, different = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as base:
        base = Path(base)
        for name, (arguments, needs, result) in commands().items():
            folder = base / name
            folder.mkdir()
            if needs is not None:
                shutil.copytree(base / needs / 'data', folder / 'data')
            seconds = run(arguments, folder)
            expected = result(folder)
            for number in range(args.kills):
                own = prepared(base, name, needs)
                moment = draw.uniform(0, seconds)
                process = start(arguments, own)
                time.sleep(moment)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                try:
                    run(arguments, own)
                    is_same = result(own) == expected
                except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
                    print(error)
                    is_same = False
                different += not is_same
                print(f'{name}, kill {number + 1} of {args.kills} at {moment:.1f} of {seconds:.1f} s: '
                      f'{"same result" if is_same else "ANOTHER RESULT"}', flush=True)
                shutil.rmtree(own)
    sys.exit(bool(different))


if __name__ == '__main__':
    main()
