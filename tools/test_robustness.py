#!/usr/bin/env python
"""Test a checkpoint while sensors fail: tools/test_robustness.py CONFIG CHECKPOINT [--cases ..] [--out DIR]

Prints mAP, NDS, errors, resilience, recall where sensors are lost and what the router did. Safe to interrupt: finished
cases are kept in --out and not repeated while config, checkpoint and data are the same.
"""
import argparse
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
import projects.mmdet3d_plugin  # noqa: E402,F401  (before other mm imports, see its compat.py)
from projects.mmdet3d_plugin.apis import config as cli  # noqa: E402
from projects.mmdet3d_plugin.apis import load_config  # noqa: E402
from projects.mmdet3d_plugin.datasets.sensor_failures import CASE_HELP  # noqa: E402
from projects.mmdet3d_plugin.experiments.robustness import DEFAULT_CASES, measure_robustness  # noqa: E402
from projects.mmdet3d_plugin.experiments.router_controls import CONTROLS  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_config_arguments(parser)
    parser.add_argument('checkpoint', type=cli.existing_file, help='a baseline checkpoint also fits a config with AQR')
    parser.add_argument('--cases', nargs='+', type=cli.failure_case, default=DEFAULT_CASES, metavar='CASE',
                        help=CASE_HELP)
    parser.add_argument('--controls', nargs='+', choices=CONTROLS, default=('learned', ),
                        help="replace the router's weights at test time (default: learned)")
    parser.add_argument('--out', metavar='DIR', help='default: ./work_dirs/robustness_<config name>')
    parser.add_argument('--seed', type=int, default=0, help='seed of the failures')
    args = parser.parse_args()
    for given, what in ((args.cases, '--cases'), (args.controls, '--controls')):
        if len(set(given)) < len(given):
            parser.error(f'argument {what}: must differ, got {", ".join(given)}')
    out = args.out or osp.join('work_dirs', f'robustness_{osp.splitext(osp.basename(args.config))[0]}')

    cfg = load_config(args.config, args.cfg_options)
    table = measure_robustness(cfg, args.checkpoint, args.cases, out, args.controls, args.seed, args.trust_checkpoint)
    print(f'{table}\n\nwritten to {osp.join(out, "robustness.md")}, .csv and .json')


if __name__ == '__main__':
    main()
