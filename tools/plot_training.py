#!/usr/bin/env python
"""Draw what runs logged against iterations: tools/plot_training.py NAME=WORK_DIR [NAME=LOG.json ...] --out FILE

One panel per number, one line per run. mmdet's analyze_logs.py draws one number a figure; this is to compare runs.
"""
import argparse
import os.path as osp

import command_line

KEYS = ('detection_loss', 'grad_norm', 'aqr/lidar_weight_mean', 'aqr/camera_weight_mean', 'attention/entropy_*',
        'attention/lidar_*')
LABELS = {
    'detection_loss': 'detection loss',
    'aqr/lidar_weight_mean': 'LiDAR weight, mean over queries',
    'aqr/camera_weight_mean': 'camera weight, mean over queries',
    'attention/entropy_*': 'entropy of attention (nats),\nmean over layers',
    'attention/lidar_*': 'attention on LiDAR tokens,\nmean over layers',
    'grad_norm': 'gradient norm before clipping',
}


def named_run(text):
    """argparse type: NAME=PATH."""
    name, separator, path = text.partition('=')
    if not separator or not name:
        raise argparse.ArgumentTypeError(f'expected NAME=WORK_DIR or NAME=LOG.json, got {text!r}')
    if not osp.exists(path):
        raise argparse.ArgumentTypeError(f'no such file or directory: {path}')
    return name, path


def parse_args():
    parser = command_line.new_parser(__doc__)
    parser.add_argument('runs', nargs='+', type=named_run, metavar='NAME=RUN', help='work directory or .log.json')
    parser.add_argument('--keys', nargs='+', metavar='KEY',
                        help='numbers of the logs; with wildcards the mean of all that match (default: the loss, the '
                        "gradient norm, the router's weights and the attention, as far as a run logged them)")
    parser.add_argument('--out', required=True, metavar='FILE', help='picture, for example curves.png')
    return parser.parse_args()


def main(args):
    from projects.mmdet3d_plugin.experiments.training_log import curve, read_training_log
    from projects.mmdet3d_plugin.visualization import LINE_STYLES, draw_training_curves
    if len(args.runs) > len(LINE_STYLES) or len(dict(args.runs)) < len(args.runs):
        command_line.refuse(f'argument NAME=RUN: at most {len(LINE_STYLES)} runs of different names, got '
                            f'{[name for name, _ in args.runs]}')
    logs = {name: read_training_log(path) for name, path in args.runs}
    panels = {key: {name: curve(log, key) for name, log in logs.items()} for key in args.keys or KEYS}
    absent = [key for key, lines in panels.items() if not any(lines.values())]
    if args.keys is None and len(absent) < len(KEYS):
        panels = {key: lines for key, lines in panels.items() if key not in absent}
    elif absent:
        known = sorted({name for log in logs.values() for numbers in log.values() for name in numbers})
        command_line.refuse(f'argument --keys: no run logged {absent}; logged: {known}')
    draw_training_curves(args.out, {LABELS.get(key, key): lines for key, lines in panels.items()})
    print(f'wrote {args.out}')


if __name__ == '__main__':
    command_line.run(parse_args, main)
