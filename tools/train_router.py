#!/usr/bin/env python
"""Teach the router of a config on a frozen detector, in minutes: tools/train_router.py CONFIG CHECKPOINT [options]

The detector looks at samples of data.train once, its evidence is kept, and the router learns from that. The work
directory gets latest.pth, detector and router together, for every other tool.
"""
import os.path as osp

import command_line


def parse_args():
    parser = command_line.new_parser(__doc__)
    command_line.add_config_arguments(parser)
    parser.add_argument('checkpoint', type=command_line.existing_file, help='of the detector; stays as it is')
    parser.add_argument('--work-dir', help='folder for evidence, logs and the checkpoint (default: ./work_dirs/<config '
                        'name>)')
    parser.add_argument('--evidence', metavar='DIR', help='folder for evidence that several routers learn from '
                        '(default: evidence/ in the work directory)')
    parser.add_argument('--seed', type=int, default=0, help='of all that is drawn (default: 0)')
    parser.add_argument('--workers', type=command_line.positive_integer, default=2,
                        help='processes that load samples (default: 2)')
    return parser.parse_args()


def main(args):
    from projects.mmdet3d_plugin.apis import load_config, train_router
    cfg = load_config(args.config, args.cfg_options)
    cfg.work_dir = args.work_dir or cfg.work_dir
    print(train_router(cfg, args.checkpoint, osp.basename(args.config), args.seed, args.workers,
                       args.trust_checkpoint, args.evidence))


if __name__ == '__main__':
    command_line.run(parse_args, main)
