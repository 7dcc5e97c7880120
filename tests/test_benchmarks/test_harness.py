"""Turns, figures and files of the harness, with candidates that move a clock instead of working."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import harness
from benchmarks.harness import Comparison


def call(candidate):
    candidate()


@pytest.fixture
def make_comparison(monkeypatch):
    """Factory: seconds of each turn, by candidate -> (Comparison, list of the names in the order of their turns)."""

    def make(seconds, passes=('forward', )):
        now, turns = [0.0], []
        monkeypatch.setattr(harness, 'perf_counter', lambda: now[0])
        left = {name: iter(list(own) * len(passes)) for name, own in seconds.items()}

        def candidate(name):
            turns.append(name)
            now[0] += next(left[name])

        return Comparison({name: lambda name=name: candidate(name) for name in seconds},
                          dict.fromkeys(passes, call)), turns

    return make


def test_figures_are_medians_and_quartiles_without_the_warm_up(make_comparison):
    """The machine is up to four times slower in some rounds. That spreads the seconds, not the ratios of a round."""
    load = np.array([50, 1, 4, 2, 1, 3])  # the first turn warms up
    comparison, _ = make_comparison({'base': load, 'twice': 2 * load, 'other': [50, 6, 2, 4, 10, 8]})
    rows = comparison.measure(5)['forward']
    assert rows['base'] == dict(median_s=2, quartiles_s=[1, 3], ratio=1, ratio_quartiles=[1, 1])
    assert rows['twice'] == dict(median_s=4, quartiles_s=[2, 6], ratio=2, ratio_quartiles=[2, 2])
    other = rows['other']  # rounds' ratios: 6, 0.5, 2, 10, 8 / 3
    assert other['median_s'] == 6 and other['quartiles_s'] == [4, 8]
    assert other['ratio'] == 3 and other['ratio_quartiles'] == [2, 6]


def test_candidates_take_turns_in_a_new_order_each_round(make_comparison):
    comparison, turns = make_comparison({name: [1] * 9 for name in 'abc'}, passes=('one', 'two'))
    assert list(comparison.measure(8)) == ['one', 'two']
    rounds = [tuple(turns[start:start + 3]) for start in range(0, len(turns), 3)]
    assert len(rounds) == 2 * 9 and all(sorted(names) == ['a', 'b', 'c'] for names in rounds)
    assert len(set(rounds)) > 3  # of six possible orders
    again, turns_again = make_comparison({name: [1] * 9 for name in 'abc'}, passes=('one', 'two'))
    again.measure(8)
    assert turns_again == turns


@pytest.mark.parametrize('only, measured', [(None, 'abc'), (['c'], 'ac'), (['c', 'b'], 'abc'), (['a'], 'a')])
def test_only_some_are_measured_beside_the_base(make_comparison, only, measured):
    comparison, turns = make_comparison({name: [1, 1] for name in 'abc'})
    assert list(comparison.measure(1, only)['forward']) == list(measured)
    assert set(turns) == set(measured)


def test_a_pass_decides_how_candidates_run():
    seen = []
    comparison = Comparison({'a': lambda: 'ran a', 'b': lambda: 'ran b'},
                            {'once': lambda run: seen.append(run()), 'twice': lambda run: seen.extend([run(), run()])})
    comparison.measure(1, only=['a'])
    assert seen == ['ran a'] * (2 * 1 + 2 * 2)


def test_peaks_come_from_processes_of_their_own(make_comparison):
    comparison, _ = make_comparison({'a': [1, 1], 'b': [1, 1]})
    results = comparison.measure(1)
    comparison.add_peaks(results, lambda name, title: [
        sys.executable, '-c', f'print("{title}, noise"); print({dict(a=12.5, b=300)[name]})'])
    assert {name: row['peak_mib'] for name, row in results['forward'].items()} == dict(a=12.5, b=300)
    with pytest.raises(RuntimeError, match='ended with exit code 3:\nout of luck'):
        comparison.add_peaks(results, lambda name, title: [
            sys.executable, '-c', 'import sys; sys.stderr.write("out of luck"); sys.exit(3)'])


def test_the_peak_is_that_of_the_run_alone(repo_root):
    """Neither what was there before counts, nor an earlier peak; memory that is free again at the end does.

    In a process of its own: that of the tests has free memory, which it may give back meanwhile.
    """
    script = ('import torch\nfrom benchmarks import harness\nkept = torch.ones(100, 2**18)\n'
              'for mib in (256, 64): print(harness.own_peak(lambda: torch.ones(mib, 2**18)))')
    found = subprocess.run([sys.executable, '-c', script], cwd=repo_root, capture_output=True, text=True, check=True)
    assert [float(line) for line in found.stdout.split()] == pytest.approx([256, 64], abs=8)


def test_table(make_comparison):
    comparison, _ = make_comparison({'plain': [1, 1, 2, 3], 'global fused': [1, 3, 3, 3]}, passes=('forward', 'both'))
    results = comparison.measure(3)
    results['forward']['plain']['peak_mib'] = 45.3
    blank, heading, plain, fused, *second = comparison.table(results).splitlines()
    assert not blank
    assert heading.split() == ['forward', 'median', 'quartiles', 'ratio', 'its', 'quartiles', 'peak', 'MiB']
    assert plain.split() == ['plain', '2.000s', '1.500-2.500s', '1.00', '1.00-1.00', '45']
    assert fused.split() == ['global', 'fused', '3.000s', '3.000-3.000s', '1.50', '1.25-2.25', '-']
    assert len({len(line) for line in (heading, plain, fused)}) == 1  # columns
    assert len(second) == 4 and second[1].startswith('both')


def test_json_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'new' / 'figures.json'
    results = dict(forward=dict(plain=dict(median_s=1.5)))
    harness.write_json(path, dict(subject='attention', rounds=3), results)
    written = path.read_text()
    assert json.loads(written) == dict(arguments=dict(subject='attention', rounds=3), torch=torch.__version__,
                                       results=results)

    def write_half(self, text):
        self.write_bytes(text.encode()[:20])
        raise OSError('disk full')

    monkeypatch.setattr(Path, 'write_text', write_half)
    with pytest.raises(OSError, match='disk full'):
        harness.write_json(path, dict(subject='head'), results)
    assert path.read_text() == written and [file.name for file in path.parent.iterdir()] == ['figures.json']
