#!/usr/bin/env python
"""Train a detector: tools/train.py CONFIG [options]"""
import os.path as osp

import command_line


def parse_args():
    parser = command_line.new_parser(__doc__)
    command_line.add_config_arguments(parser)
    command_line.add_process_arguments(parser)
    command_line.add_frame_argument(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: ./work_dirs/<config name>)')
    resume = parser.add_mutually_exclusive_group()
    resume.add_argument('--resume-from', type=command_line.existing_file,
                        help='checkpoint of an interrupted run to go on from')
    resume.add_argument('--auto-resume', action='store_true',
                        help='go on from the latest checkpoint of the work directory')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument('--diff-seed', action='store_true', help='another seed in each process')
    return command_line.parse_process_arguments(parser)


def main(args):
    from projects.mmdet3d_plugin.apis import train_detector
    cfg = command_line.load_config(args, ['train'] if args.no_validate else ['train', 'val'])
    cfg.work_dir = args.work_dir or cfg.work_dir
    cfg.resume_from = args.resume_from or cfg.resume_from
    cfg.auto_resume = args.auto_resume or cfg.get('auto_resume', False)
    cfg.gpu_ids = [args.gpu_id]
    train_detector(cfg, osp.basename(args.config), args.launcher, args.seed, args.diff_seed, args.deterministic,
                   not args.no_validate, args.trust_checkpoint)


if __name__ == '__main__':
    command_line.run(parse_args, main)
