#!/usr/bin/env python
"""Test a checkpoint while sensors fail: tools/test_robustness.py CONFIG CHECKPOINT [--cases ..] [--out DIR]

Prints mAP, NDS, errors, resilience, recall where sensors are lost and what the router did. Safe to interrupt: finished
cases are kept in --out and not repeated while config, checkpoint and data are the same.
"""
import os.path as osp

import command_line


def controls():
    from projects.mmdet3d_plugin.experiments.router_controls import CONTROLS
    return CONTROLS


def parse_args():
    parser = command_line.new_parser(__doc__)
    command_line.add_config_arguments(parser)
    parser.add_argument('checkpoint', type=command_line.existing_file,
                        help='a baseline checkpoint also fits a config with AQR')
    parser.add_argument('--cases', nargs='+', type=command_line.failure_case, metavar='CASE',
                        help=f'sensor failures to test under, {command_line.CASES_HELP} (default: the clean data and '
                        'a choice of failures)')
    parser.add_argument('--controls', nargs='+', action=command_line.OneOf, allowed=controls, default=('learned', ),
                        metavar='CONTROL', help="weights to test with: learned, the router's own, or others in their "
                        'place, such as off or oracle (default: learned)')
    parser.add_argument('--out', metavar='DIR',
                        help='folder for results and tables (default: ./work_dirs/robustness_<config name>)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the failures (default: %(default)s)')
    args = parser.parse_args()
    command_line.require_different(parser, '--cases', args.cases)
    command_line.require_different(parser, '--controls', args.controls)
    return args


def main(args):
    from projects.mmdet3d_plugin.apis import load_config
    from projects.mmdet3d_plugin.experiments.robustness import DEFAULT_CASES, measure_robustness
    out = args.out or osp.join('work_dirs', f'robustness_{osp.splitext(osp.basename(args.config))[0]}')
    cfg = load_config(args.config, args.cfg_options)
    table = measure_robustness(cfg, args.checkpoint, args.cases or DEFAULT_CASES, out, args.controls, args.seed,
                               args.trust_checkpoint)
    print(f'{table}\n\nwritten to {osp.join(out, "robustness.md")}, .csv and .json')


if __name__ == '__main__':
    command_line.run(parse_args, main)
