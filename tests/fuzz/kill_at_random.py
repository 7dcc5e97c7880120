#!/usr/bin/env python
"""Kill long commands at random moments and let them go on: tests/fuzz/kill_at_random.py [--kills 5] [--seed 0]

Each command runs once undisturbed. Then, as often as asked, it is started in a new folder, killed with all of its
processes (SIGKILL) at a random moment, and started again, which must end with what the undisturbed run gave. Prints a
line for each kill and ends with 1 if any result differs.

`--commands set-up` kills tools/setup_env.sh, all times in one build of the environment (about 20 minutes), since each
start goes on where the last one was killed. What is there at the end must be whole: all pins, every file of every
package as its record says. CMT_AQR_CACHE names the folder that keeps the environment; by default nothing is kept.
"""
import argparse
import base64
import csv
import hashlib
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
LONGEST_WAIT = 240  # seconds from a start of set-up to its kill; compiling mmcv-full, the longest step, takes about 300


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


def start(arguments, folder, **variables):
    with open(folder / 'log.txt', 'a') as log:
        return subprocess.Popen([str(argument) for argument in arguments], cwd=folder, stdout=log, stderr=log,
                                start_new_session=True, env={**os.environ, 'OMP_NUM_THREADS': '1', **variables})


def run(arguments, folder, **variables):
    """Seconds that a command takes."""
    begin = time.monotonic()
    if start(arguments, folder, **variables).wait():
        raise RuntimeError((folder / 'log.txt').read_text()[-3000:])
    return time.monotonic() - begin


def kill(process):
    """Kill the session of a command: all that it started, also in process groups of their own, as ninja's compilers."""
    for pid in psutil.pids():
        with suppress(ProcessLookupError):
            if os.getsid(pid) == process.pid:
                os.kill(pid, signal.SIGKILL)
    process.wait()


def prepared(base, name, needs):
    """A new folder with what a command needs."""
    folder = Path(tempfile.mkdtemp(prefix=name.replace(' ', '_'), dir=base))
    if needs is not None:
        shutil.copytree(base / needs / 'data', folder / 'data')
    return folder


def kill_command(base, name, kills, draw):
    """Kill a command in one new folder after another; returns how many results differ from the undisturbed one."""
    arguments, needs, result = commands()[name]
    folder, different = base / name, 0
    folder.mkdir()
    if needs is not None:
        shutil.copytree(base / needs / 'data', folder / 'data')
    seconds = run(arguments, folder)
    expected = result(folder)
    for number in range(kills):
        own = prepared(base, name, needs)
        moment = draw.uniform(0, seconds)
        process = start(arguments, own)
        time.sleep(moment)
        kill(process)
        try:
            run(arguments, own)
            is_same = result(own) == expected
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            print(error)
            is_same = False
        different += not is_same
        print(f'{name}, kill {number + 1} of {kills} at {moment:.1f} of {seconds:.1f} s: '
              f'{"same result" if is_same else "ANOTHER RESULT"}', flush=True)
        shutil.rmtree(own)
    return different


def kill_set_up(base, kills, draw):
    """Kill one build of the environment again and again, then let it end; returns how many faults there were."""
    checkout = base / 'checkout'  # set-up links .venv: not that of the checkout at hand
    for name in ('projects', 'tools'):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'requirements.txt', checkout)
    cache = Path(os.environ.get('CMT_AQR_CACHE', base / 'cache'))
    command, log, faults = [checkout / 'tools/setup_env.sh'], checkout / 'log.txt', []
    for number in range(kills):
        moment = draw.uniform(0, LONGEST_WAIT)
        process = start(command, checkout, CMT_AQR_CACHE=str(cache))
        try:
            process.wait(moment)
            print(f'set-up ended before kill {number + 1} after {moment:.1f} s')
            break
        except subprocess.TimeoutExpired:
            kill(process)
        doing = log.read_text().splitlines()[-1] if log.read_text() else 'nothing yet'
        print(f'set-up, kill {number + 1} of {kills} after {moment:.1f} s, at: {doing}', flush=True)
        if (checkout / '.venv').exists() or list(cache.glob(f'env-{environment_key(checkout)}-*/.complete')):
            faults.append(f'called ready before kill {number + 1}')
    seconds = run(command, checkout, CMT_AQR_CACHE=str(cache))
    faults += environment_faults(checkout / '.venv', checkout / 'requirements.txt')
    print(f'set-up ended after {seconds:.1f} s more: {"; ".join(faults) or "the environment is whole"}')
    return len(faults)


def environment_key(checkout):
    """What set-up calls the environment of a checkout: changed pins make another one."""
    return hashlib.sha256((checkout / 'requirements.txt').read_bytes()).hexdigest()[:12]


def environment_faults(environment, pins):
    """Pins that are not installed, and files that are not as the records of their packages say."""
    site, = environment.glob('lib/python*/site-packages')
    installed = {comparable(found.name): found.version for found in metadata.distributions(path=[site])}
    wanted = dict(re.findall(r'^(\S+)==(\S+)$', pins.read_text(), re.MULTILINE))
    faults = [f'{name} {installed.get(comparable(name))} instead of {version}' for name, version in wanted.items()
              if installed.get(comparable(name)) != version and not name.startswith('spconv')]  # one of two of these
    for record in site.glob('*.dist-info/RECORD'):
        for name, digest, *_ in csv.reader(record.read_text().splitlines()):
            method, _, value = digest.partition('=')
            # Set-up changes one file; Python may compile anew, and what pip compiles or generates at last has no hash.
            if name == 'mmdet3d/__init__.py' or name.endswith('.pyc') or not method:
                continue
            path = site / name
            found = hashlib.new(method, path.read_bytes()).digest() if path.is_file() else b''
            if base64.urlsafe_b64encode(found).rstrip(b'=').decode() != value:
                faults.append(f'{name} is not what {record.parent.name} says')
    return faults


def comparable(name):
    return re.sub('[-_.]+', '-', name).lower()


def main():
    names = [*commands(), 'set-up']
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=5, help='kills of each command (default: 5)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments (default: 0)')
    parser.add_argument('--commands', nargs='+', choices=names, default=names[:-1],
                        help=f'default: {", ".join(names[:-1])}')
    args = parser.parse_args()
    draw, faults = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as base:
        for name in args.commands:
            if name == 'set-up':
                faults += kill_set_up(Path(base), args.kills, draw)
            else:
                faults += kill_command(Path(base), name, args.kills, draw)
    sys.exit(bool(faults))


if __name__ == '__main__':
    main()
