#!/usr/bin/env python
"""Train a detector: tools/train.py CONFIG [options]"""
import argparse
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
import projects.mmdet3d_plugin  # noqa: E402,F401  (before other mm imports, see its compat.py)
from projects.mmdet3d_plugin.apis import config as cli  # noqa: E402
from projects.mmdet3d_plugin.apis import load_config, train_detector  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description='Train a detector')
    cli.add_config_arguments(parser)
    cli.add_process_arguments(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: ./work_dirs/<config name>)')
    resume = parser.add_mutually_exclusive_group()
    resume.add_argument('--resume-from', type=cli.existing_file, help='checkpoint of an interrupted run to go on from')
    resume.add_argument('--auto-resume', action='store_true',
                        help='go on from the latest checkpoint of the work directory')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument('--diff-seed', action='store_true', help='another seed in each process')
    args = cli.parse_process_arguments(parser)

    cfg = load_config(args.config, args.cfg_options)
    cfg.work_dir = args.work_dir or cfg.work_dir
    cfg.resume_from = args.resume_from or cfg.resume_from
    cfg.auto_resume = args.auto_resume or cfg.get('auto_resume', False)
    cfg.gpu_ids = [args.gpu_id]
    train_detector(cfg, osp.basename(args.config), args.launcher, args.seed, args.diff_seed, args.deterministic,
                   not args.no_validate, args.trust_checkpoint)


if __name__ == '__main__':
    main()
