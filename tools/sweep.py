#!/usr/bin/env python
"""Fine-tune and test over the attention bias' strength and mode: tools/sweep.py CONFIG --bias-strength 3 5 7 [options]

Prints a table and writes it with a plot to --out. Safe to interrupt: finished runs are kept, an unfinished one goes on
from its latest checkpoint, while config, options, checkpoint and info files are the same.
"""
import argparse
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
import projects.mmdet3d_plugin  # noqa: E402,F401  (before other mm imports, see its compat.py)
from projects.mmdet3d_plugin.apis import config as cli  # noqa: E402
from projects.mmdet3d_plugin.experiments.sweep import MODES, BiasSweep  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_config_arguments(parser)
    parser.add_argument('--checkpoint', type=cli.existing_file, help='weights to start from (default: load_from)')
    parser.add_argument('--bias-strength', nargs='+', type=float, default=[3.0, 5.0, 7.0], metavar='S',
                        help='values of aqr_bias_strength')
    parser.add_argument('--mode', nargs='+', choices=MODES, default=MODES, help='whole modalities, or local windows')
    parser.add_argument('--out', metavar='DIR', help='default: ./work_dirs/sweep_<config name>')
    parser.add_argument('--seed', type=int, default=0, help='seed of python, numpy and torch in each run')
    args = parser.parse_args()
    out = args.out or osp.join('work_dirs', f'sweep_{osp.splitext(osp.basename(args.config))[0]}')

    sweep = BiasSweep(args.config, args.cfg_options, args.bias_strength, args.mode, out, args.checkpoint, args.seed,
                      args.trust_checkpoint)
    failed = sweep.run()
    print(f'\n{sweep.report()}\n\nsweep.md, sweep.csv and sweep.png are in {out}')
    if failed:
        sys.exit(f'{len(failed)} of {len(sweep.runs)} runs failed: '
                 + '; '.join(f'{mode}, {strength:g}' for mode, strength in failed) + '. Run again to go on with them')


if __name__ == '__main__':
    main()
