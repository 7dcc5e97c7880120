"""Measuring side by side: turns, medians and their ratios, peak memory. What is measured, subjects/ knows."""
import ctypes
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Callable, Dict

import mmcv
import numpy as np
import torch
import torch.nn.functional as F

from projects.mmdet3d_plugin.utils.atomic_file import atomic_path

# What is counted. Seconds of CPU time hardly depend on other programs; those of all threads count, also while they wait
# for each other.
CLOCKS = dict(wall=perf_counter, cpu=process_time)


@dataclass(frozen=True)
class Comparison:
    """Candidates that take turns within one process, so that the machine's other load meets them alike.

    Attributes:
        candidates: name -> function without arguments; the first one is the base of the ratios.
        passes: title -> function that takes a candidate and runs it once.
    """

    candidates: Dict[str, Callable]
    passes: Dict[str, Callable]

    def measure(self, rounds, only=None, clock=None):
        """Time the candidates, in a new order each round.

        Args:
            rounds (int): measured turns of each candidate, >= 1; one more warms up.
            only (Sequence[str] | None): names to measure beside the base, default: all.
            clock (Callable | None): gives seconds, of ``CLOCKS``; default: wall.

        Returns:
            dict[str, dict[str, dict]]: title -> name -> ``median_s`` and ``quartiles_s`` in seconds, ``ratio`` of the
            medians to the base's, and ``ratio_quartiles`` over the rounds' own ratios.
        """
        base, clock = next(iter(self.candidates)), clock or perf_counter
        names = [name for name in self.candidates if not only or name in only or name == base]
        order, results = np.random.RandomState(0), {}
        bar = mmcv.ProgressBar(len(self.passes) * (rounds + 1) * len(names), file=sys.stderr)
        for title, run in self.passes.items():
            seconds = {name: [] for name in names}
            for turn in range(rounds + 1):
                for name in order.permutation(names):
                    start = clock()
                    run(self.candidates[name])
                    if turn:  # the first round warms up
                        seconds[name].append(clock() - start)
                    bar.update()
            results[title] = {name: _figures(own, seconds[base]) for name, own in seconds.items()}
        print(file=sys.stderr)
        return results

    def add_peaks(self, results, command_of):
        """Add ``peak_mib`` to results of :meth:`measure`: MiB that one run of a candidate adds at its peak.

        Args:
            results (dict): changed in place.
            command_of (Callable): name and title -> command line (list[str]) whose process measures that run with
                :func:`own_peak` and prints the number last. A process of its own, because memory that an earlier
                candidate has left to the allocator would hide what a later one needs.
        """
        for title, rows in results.items():
            for name, row in rows.items():
                row['peak_mib'] = float(_printed_by(command_of(name, title)).split()[-1])

    @staticmethod
    def table(results):
        """str: results of :meth:`measure`, a block for each pass."""
        lines = []
        for title, rows in results.items():
            heading = f'{"median":>10}{"quartiles":>20}{"ratio":>8}{"its quartiles":>16}{"peak MiB":>10}'
            lines += ['', f'{title:<28}{heading}']
            for name, row in rows.items():
                low, high = row['quartiles_s']
                ratio_low, ratio_high = row['ratio_quartiles']
                memory = f'{row["peak_mib"]:.0f}' if 'peak_mib' in row else '-'
                lines.append(f'  {name:<26}{row["median_s"]:>9.3f}s{f"{low:.3f}-{high:.3f}s":>20}{row["ratio"]:>8.2f}'
                             f'{f"{ratio_low:.2f}-{ratio_high:.2f}":>16}{memory:>10}')
        return '\n'.join(lines)


def _figures(seconds, base):
    """A candidate's row of the results, from its seconds and those of the base in the same rounds."""
    seconds, base = np.array(seconds), np.array(base)
    return dict(median_s=float(np.median(seconds)), quartiles_s=np.percentile(seconds, [25, 75]).tolist(),
                ratio=float(np.median(seconds) / np.median(base)),
                ratio_quartiles=np.percentile(seconds / base, [25, 75]).tolist())


def _printed_by(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'{shlex.join(command)} ended with exit code {done.returncode}:\n{done.stderr}')
    return done.stdout


def own_peak(run):
    """MiB that ``run()`` adds at its peak to the memory of this process (Linux)."""
    # A small attention comes first, so that thread pools and workspaces do not count.
    F.scaled_dot_product_attention(*torch.randn(3, 1, 8, 64, 32))
    # Memory that the set-up has left to the allocator would hide what the run needs.
    ctypes.CDLL('libc.so.6').malloc_trim(0)
    # ru_maxrss would do, were it not inherited from the parent process; the kernel's own high-water mark can be reset.
    with open('/proc/self/clear_refs', 'w') as clear_refs:
        clear_refs.write('5')
    before = _status_kib('VmRSS')
    run()
    return (_status_kib('VmHWM') - before) / 1024


def _status_kib(field):
    """A field of /proc/self/status in KiB."""
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) for line in status if line.startswith(f'{field}:'))


def write_json(path, arguments, results):
    """Write results with what led to them; the file appears complete or not at all.

    Args:
        path (str | Path): file to write.
        arguments (dict): the command line.
        results (dict): what a subject measured.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(dict(arguments=arguments, torch=torch.__version__, results=results), indent=1))
