"""Many failure cases, one after the other or in several processes, and what must hold of all of them."""
import math
import os
import time

import torch

from ..apis.config import load_config
from ..apis.failing_sensors import check_cases
from ..datasets.sensor_failures import FailureCase
from .child_process import map_in_children
from .robustness import RobustnessTest

_NOTES = {  # of a record's counts by failure
    'fallbacks': 'A replacement took the place of what a failure needs (see its description in docs/corruptions.md)',
    'spared': 'A failure left samples as they were, which count in its scores (see docs/corruptions.md)'}


def run_cases(cases, out, workers, cfg, checkpoint, controls, seed, trust_checkpoint):
    """Test a checkpoint under every case, or read what was tested before.

    Mistakes in a case show before the first one runs. Several processes do whole cases each, of one thread unless
    `OMP_NUM_THREADS` says otherwise; what they print goes to `workers.log`. Their number changes no result.

    Args:
        cases (Sequence[FailureCase]): 'clean' first.
        out (Path): folder, in which `results` keeps them.
        workers (int): number of processes, >= 1.
        cfg, checkpoint, controls, seed, trust_checkpoint: see `RobustnessTest`.

    Returns:
        tuple[RobustnessTest, dict]: the test, and by case what its `run` returned.

    Raises:
        ValueError: see `RobustnessTest` and `check_cases`; a number of workers below 1; or a case that left the data as
            they were.
        RuntimeError: see `map_in_children`.
    """
    if workers < 1:
        raise ValueError(f'workers must be at least 1, got {workers}')
    arguments = cfg, checkpoint, out / 'results', controls, seed, trust_checkpoint
    test = RobustnessTest(*arguments)
    missing = [case for case in cases if not test.is_finished(case)]
    if missing:
        check_cases(test.cfg, missing, seed)
    workers = min(workers, len(missing))
    if workers > 1:
        start = time.perf_counter()
        done = map_in_children(_case_runner, arguments, list(map(str, missing)), workers, out / 'workers.log')
        for number, (case, seconds) in enumerate(done, 1):
            left = (time.perf_counter() - start) / number * (len(missing) - number)
            print(f'[{number}/{len(missing)}] {case}: {seconds:.0f} s, about {left:.0f} s left', flush=True)
    records = {}
    for number, case in enumerate(cases, 1):
        if workers <= 1:
            print(f'[{number}/{len(cases)}] {case}', flush=True)
        records[case] = test.run(case)
        _check_was_corrupted(case, records)
    return test, records


def _case_runner(cfg, *arguments):
    """What does a case in a process of its own: text of the case -> seconds it took."""
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS') or 1))
    if cfg.filename is not None:
        load_config(cfg.filename)  # imports the modules that it names
    test = RobustnessTest(cfg, *arguments)

    def run(case):
        start = time.perf_counter()
        test.run(case)
        return time.perf_counter() - start

    return run


def _check_was_corrupted(case, records):
    """Raise where a failure changed nothing: its scores would be those of clean data under another name."""
    digests = [{record['digest'] for record in controls.values()} for controls in (
        records[case], records[FailureCase()])]
    if any(len(digest) != 1 for digest in digests):
        raise ValueError(f'case {str(case)!r}: its controls were not tested on the same data; remove the results and '
                         'test again')
    if not case.is_clean and digests[0] == digests[1]:
        raise ValueError(f'case {str(case)!r} was not corrupted: points, images and calibrations of all samples are '
                         'those of the clean data (what strikes at random may do so with another seed)')


def sample_notes(records):
    """What happened to some samples alone: a line on replacements for what a failure needs, one on samples spared.

    Args:
        records (dict): from `run_cases`.

    Returns:
        list[str]: only the lines that there is something to say in.
    """
    notes = []
    for name, text in _NOTES.items():
        found = []
        for case, controls in records.items():
            record = next(iter(controls.values()))  # the others are of the same data
            found += [f'{case}: {failure} in {count} of {record["samples"]} samples'
                      for failure, count in record[name].items()]
        notes += [f'{text}: {"; ".join(found)}.'] * bool(found)
    return notes


def time_note(records):
    """One line on how long the tests took, whenever they ran; and the numbers behind it, as a dict."""
    seconds = {str(case): math.fsum(record['seconds'] for record in controls.values())
               for case, controls in records.items()}
    total = math.fsum(seconds.values())
    text = f'Tests took {total:.0f} s, {total / len(seconds):.1f} s a case, summed over processes.'
    return text, dict(total_seconds=total, seconds_per_case=total / len(seconds), seconds=seconds)
