#!/usr/bin/env python
"""What the attention bias costs, as ratios measured side by side in one run: benchmarks/run.py SUBJECT [options]

Candidates take turns within one process, so that the machine's other load meets them alike; the first one is the base
of the ratios. Peak memory is measured for each in a process of its own.
"""
import argparse
import importlib
import os
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
from benchmarks.settings import SCALES, Settings  # noqa: E402

# subject -> what it compares; its file in subjects/ has the same name, with _ for -
SUBJECTS = {
    'attention': 'one cross-attention without and with bias, by form of the bias and backend',
    'head': 'CmtHead without AQR, with global and with local AQR',
    'train-step': 'a training step of the 800x320 ResNet-50 config, without and with AQR (*)',
    'monitor': 'AQRMonitorHook in that step: absent, between two looks, looking (*)',
    'router': 'the router beside one cross-attention',
    'growth': 'attention against queries, tokens and batch, one of them varied at a time',
    'head-growth': 'the same of CmtHead',
}


def build_subject(name, settings):
    """What a subject measures: a ``harness.Comparison``, or an object with the same ``candidates``, ``measure`` and
    ``table``.
    """
    return importlib.import_module(f'benchmarks.subjects.{name.replace("-", "_")}').build(settings)


def make_parser():
    """argparse.ArgumentParser: the command line."""
    subjects = [f'  {name:<12}{what}' for name, what in SUBJECTS.items()]
    note = '  (*) --tokens and --queries do not count: the config has its own'
    parser = argparse.ArgumentParser(description='\n'.join([__doc__, 'subjects:', *subjects, note]),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Settings()
    parser.add_argument('subject', choices=SUBJECTS, metavar='SUBJECT', help='one of those above')
    parser.add_argument('--tokens', type=int, choices=SCALES, default=default.tokens,
                        help='keys, as in one of the published configs')
    parser.add_argument('--batch', type=int, default=default.batch)
    parser.add_argument('--queries', type=int, default=default.queries)
    parser.add_argument('--rounds', type=int, default=11, help='measured turns of each candidate')
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--clock', choices=('wall', 'cpu'), default='wall',
                        help='cpu: CPU seconds of the process, beside other programs; needs --threads 1')
    parser.add_argument('--only', nargs='+', metavar='NAME', help='measure these beside the base')
    parser.add_argument('--no-memory', action='store_true', help='leave out peak memory')
    parser.add_argument('--json', metavar='OUT', help='write the figures to this file')
    parser.add_argument('--plot', metavar='OUT', help='growth, head-growth: write a picture to this file')
    parser.add_argument('--memory-of', nargs=2, help=argparse.SUPPRESS)  # name and title: print that run's peak
    return parser


def parse(parser, argv):
    """Parse the command line and check what argparse cannot."""
    args = parser.parse_args(argv)
    for name in ('batch', 'queries', 'rounds', 'threads'):
        if getattr(args, name) < 1:
            parser.error(f'argument --{name}: must be >= 1, got {getattr(args, name)}')
    if args.clock == 'cpu' and args.threads != 1:
        parser.error('--clock cpu needs --threads 1: threads that wait for each other would count')
    if args.plot and not args.subject.endswith('growth'):
        parser.error('--plot goes with growth and head-growth')
    return args


def memory_command(args, name, title):
    """list[str]: command line of a process that prints the peak of one candidate in one pass."""
    return [sys.executable, osp.abspath(__file__), args.subject, '--memory-of', name, title, '--tokens',
            str(args.tokens), '--batch', str(args.batch), '--queries', str(args.queries), '--threads',
            str(args.threads)]


def main(argv=None):
    parser = make_parser()
    args = parse(parser, argv)
    # Late: torch takes seconds, and --help and mistakes on the command line are answered at once without it.
    import torch

    from benchmarks import harness
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    subject = build_subject(args.subject, Settings(args.tokens, args.batch, args.queries))
    if args.memory_of:
        name, title = args.memory_of
        print(harness.own_peak(lambda: subject.passes[title](subject.candidates[name])))
        return
    unknown = set(args.only or ()) - set(subject.candidates)
    if unknown:
        parser.error(f'argument --only: {args.subject} has no {", ".join(map(repr, sorted(unknown)))}; it has '
                     f'{", ".join(map(repr, subject.candidates))}')
    results = subject.measure(args.rounds, args.only, harness.CLOCKS[args.clock])
    if isinstance(subject, harness.Comparison) and not args.no_memory:
        subject.add_peaks(results, lambda name, title: memory_command(args, name, title))
    print(subject.table(results))
    if args.plot:
        subject.draw(args.plot, results)
    if args.json:
        harness.write_json(args.json, vars(args), results)


if __name__ == '__main__':
    main()
