#!/usr/bin/env python
"""Test models side by side, clean and with one sensor silenced: tools/compare.py NAME=CONFIG:CHECKPOINT ... [options]

Prints mAP, NDS, errors and AP by class, centre distance and object size. Safe to interrupt: finished tests are kept in
--out and not repeated while config, checkpoint and data are the same.
"""
import argparse
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
import projects.mmdet3d_plugin  # noqa: E402,F401  (before other mm imports, see its compat.py)
from projects.mmdet3d_plugin.apis import config as cli  # noqa: E402
from projects.mmdet3d_plugin.apis import load_config  # noqa: E402
from projects.mmdet3d_plugin.apis.failing_sensors import MODALITIES  # noqa: E402
from projects.mmdet3d_plugin.experiments.compare import compare_models  # noqa: E402


def named_model(text):
    """argparse type: NAME=CONFIG:CHECKPOINT, both files."""
    name, _, files = text.partition('=')
    config, _, checkpoint = files.partition(':')
    if not (name and config and checkpoint):
        raise argparse.ArgumentTypeError(f'expected NAME=CONFIG:CHECKPOINT, got {text!r}')
    return name, cli.existing_file(config), cli.existing_file(checkpoint)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='+', type=named_model, metavar='NAME=CONFIG:CHECKPOINT',
                        help='a baseline checkpoint also fits a config with AQR, whose router is neutral then')
    parser.add_argument('--modalities', nargs='+', choices=MODALITIES, default=MODALITIES,
                        help='sensors that work: both, lidar (images zero), camera (points at the origin)')
    parser.add_argument('--out', default='work_dirs/compare', metavar='DIR', help='folder for results and tables')
    parser.add_argument('--drop-router', action='store_true',
                        help='leave out the router weights of an AQR checkpoint when the config has no router')
    cli.add_option_arguments(parser)
    args = parser.parse_args()
    names = [name for name, _, _ in args.models]
    for given, what in ((names, 'models'), (args.modalities, '--modalities')):
        if len(set(given)) < len(given):
            parser.error(f'argument {what}: names must differ, got {", ".join(given)}')

    models = {name: (load_config(config, args.cfg_options), checkpoint) for name, config, checkpoint in args.models}
    table = compare_models(models, args.modalities, args.out, args.drop_router, args.trust_checkpoint)
    print(f'{table}\n\nwritten to {osp.join(args.out, "comparison.md")} and .csv')


if __name__ == '__main__':
    main()
