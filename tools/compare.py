#!/usr/bin/env python
"""Test models side by side, clean and with one sensor silenced: tools/compare.py NAME=CONFIG:CHECKPOINT ... [options]

Prints mAP, NDS, errors and AP by class, center distance and object size. Safe to interrupt: finished tests are kept in
--out and not repeated while config, checkpoint and data are the same.
"""
import argparse
import os.path as osp

import command_line


def named_model(text):
    """argparse type: NAME=CONFIG:CHECKPOINT, both files."""
    name, _, files = text.partition('=')
    config, _, checkpoint = files.partition(':')
    if not (name and config and checkpoint):
        raise argparse.ArgumentTypeError(f'expected NAME=CONFIG:CHECKPOINT, got {text!r}')
    return name, command_line.existing_file(config), command_line.existing_file(checkpoint)


def modalities():
    from projects.mmdet3d_plugin.apis.failing_sensors import MODALITIES
    return MODALITIES


def parse_args():
    parser = command_line.new_parser(__doc__)
    parser.add_argument('models', nargs='+', type=named_model, metavar='NAME=CONFIG:CHECKPOINT',
                        help='a baseline checkpoint also fits a config with AQR, whose router is neutral then')
    parser.add_argument('--modalities', nargs='+', action=command_line.OneOf, allowed=modalities, metavar='MODALITY',
                        help='sensors that work: both, lidar (images are zero) or camera (points are at the origin); '
                        'default: a test with each of them')
    parser.add_argument('--out', default='work_dirs/compare', metavar='DIR',
                        help='folder for results and tables (default: %(default)s)')
    command_line.add_drop_router_argument(parser)
    command_line.add_option_arguments(parser)
    args = parser.parse_args()
    command_line.require_different(parser, 'models', [name for name, _, _ in args.models])
    command_line.require_different(parser, '--modalities', args.modalities)
    return args


def main(args):
    from projects.mmdet3d_plugin.apis import load_config
    from projects.mmdet3d_plugin.experiments.compare import compare_models
    models = {name: (load_config(config, args.cfg_options), checkpoint) for name, config, checkpoint in args.models}
    table = compare_models(models, args.modalities or modalities(), args.out, args.drop_router, args.trust_checkpoint)
    print(f'{table}\n\nwritten to {osp.join(args.out, "comparison.md")} and .csv')


if __name__ == '__main__':
    command_line.run(parse_args, main)
