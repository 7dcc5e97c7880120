#!/usr/bin/env python
"""Test a checkpoint while sensors fail: tools/test_robustness.py CONFIG CHECKPOINT [--preset ..] [--cases ..]

Prints mAP, NDS, errors, resilience, recall where sensors are lost and what the router did, with 95 % intervals; for
--preset multicorrupt also MultiCorrupt's table. With --headroom it says what could be won at best: each sensor alone
and a router that knows the truth, against the same checkpoint without routing; with --gain, what a trained router wins
against the same checkpoint without it. Safe to interrupt: finished cases are
kept in --out and not repeated while config, checkpoint and data are the same.
"""
import argparse
import os.path as osp

import command_line


def control(text):
    from projects.mmdet3d_plugin.experiments.router_controls import Control
    try:
        return Control.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_args():
    parser = command_line.new_parser(__doc__)
    command_line.add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='+', type=command_line.existing_file,
                        help='a baseline checkpoint also fits a config with AQR; with --headroom or --gain several, '
                        'such as one for each training seed, over which means go')
    command_line.add_case_arguments(parser, 'to test under', 'the clean data and a choice of failures')
    parser.add_argument('--controls', nargs='+', type=control, metavar='CONTROL',
                        help="what to test with: learned, the router's own weights, or others in their place, such as "
                        'off, oracle or oracle:5 (strength of the bias); lidar_alone, camera_alone: the other sensor '
                        'blank after the failure (default: learned)')
    question = parser.add_mutually_exclusive_group()
    question.add_argument('--headroom', action='store_true', help='what could be won at best, in place of --controls')
    question.add_argument('--gain', action='store_true', help='what the router wins, in place of --controls')
    parser.add_argument('--workers', type=command_line.positive_integer, default=1, metavar='N',
                        help='processes that test cases side by side, of one thread each unless OMP_NUM_THREADS says '
                        'otherwise (default: %(default)s)')
    parser.add_argument('--out', metavar='DIR',
                        help='folder for results and tables (default: ./work_dirs/robustness_<config name>)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the failures (default: %(default)s)')
    args = parser.parse_args()
    command_line.require_different(parser, '--controls', args.controls)
    command_line.require_different(parser, 'checkpoint', args.checkpoint)
    if (args.headroom or args.gain) and args.controls:
        parser.error(f'argument --controls: --{"headroom" if args.headroom else "gain"} has controls of its own')
    if len(args.checkpoint) > 1 and not (args.headroom or args.gain):
        parser.error(f'argument checkpoint: {len(args.checkpoint)} checkpoints need --headroom or --gain')
    return args


def main(args):
    from projects.mmdet3d_plugin.apis import load_config
    from projects.mmdet3d_plugin.experiments.headroom import measure_headroom
    from projects.mmdet3d_plugin.experiments.robustness import DEFAULT_CASES
    from projects.mmdet3d_plugin.experiments.robustness_report import measure_robustness
    from projects.mmdet3d_plugin.experiments.routing_gain import measure_gain
    out = args.out or osp.join('work_dirs', f'robustness_{osp.splitext(osp.basename(args.config))[0]}')
    cfg = load_config(args.config, args.cfg_options)
    common = dict(cases=args.cases or DEFAULT_CASES, out=out, seed=args.seed, trust_checkpoint=args.trust_checkpoint,
                  workers=args.workers)
    if args.headroom:
        text, name = measure_headroom(cfg, args.checkpoint, **common), 'headroom'
    elif args.gain:
        text, name = measure_gain(cfg, args.checkpoint, **common), 'gain'
    else:
        text = measure_robustness(cfg, args.checkpoint[0], controls=args.controls or ('learned', ), **common)
        name = 'robustness'
    print(f'{text}\n\nwritten to {osp.join(out, name)}.md, .csv and .json{" and .png" * args.headroom}')


if __name__ == '__main__':
    command_line.run(parse_args, main)
