#!/usr/bin/env python
"""Fine-tune and test over the attention bias' strength and mode: tools/sweep.py CONFIG --bias-strength 3 5 7 [options]

Prints a table and writes it with a plot to --out. Safe to interrupt: finished runs are kept, an unfinished one goes on
from its latest checkpoint, while config, options, checkpoint and info files are the same.
"""
import os.path as osp
import sys

import command_line


def modes():
    from projects.mmdet3d_plugin.experiments.sweep import MODES
    return MODES


def parse_args():
    parser = command_line.new_parser(__doc__)
    command_line.add_config_arguments(parser)
    parser.add_argument('--checkpoint', type=command_line.existing_file,
                        help='weights to start from (default: load_from of the config)')
    parser.add_argument('--bias-strength', nargs='+', type=float, default=[3.0, 5.0, 7.0], metavar='S',
                        help='values of aqr_bias_strength (default: 3 5 7)')
    parser.add_argument('--mode', nargs='+', action=command_line.OneOf, allowed=modes,
                        help='what the bias acts on: global, whole modalities, or local, windows around the queries '
                        '(default: each of them)')
    parser.add_argument('--out', metavar='DIR',
                        help='folder for runs, table and plot (default: ./work_dirs/sweep_<config name>)')
    parser.add_argument('--seed', type=int, default=0, help='seed of python, numpy and torch in each run (default: 0)')
    return parser.parse_args()


def main(args):
    from projects.mmdet3d_plugin.experiments.sweep import BiasSweep
    out = args.out or osp.join('work_dirs', f'sweep_{osp.splitext(osp.basename(args.config))[0]}')
    sweep = BiasSweep(args.config, args.cfg_options, args.bias_strength, args.mode or modes(), out, args.checkpoint,
                      args.seed, args.trust_checkpoint)
    strengths, kinds = len(args.bias_strength), len(args.mode or modes())
    print(f'{len(sweep.runs)} runs: {strengths} strengths x {kinds} modes (see --mode)', flush=True)
    failed = sweep.run()
    print(f'\n{sweep.report()}\n\nsweep.md, sweep.csv and sweep.png are in {out}')
    if failed:
        sys.exit(f'{len(failed)} of {len(sweep.runs)} runs failed: '
                 + '; '.join(f'{mode}, {strength:g}' for mode, strength in failed) + '. Run again to go on with them')


if __name__ == '__main__':
    command_line.run(parse_args, main)
