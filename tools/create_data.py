#!/usr/bin/env python
"""Info files and ground-truth database from nuScenes tables: tools/create_data.py nuscenes --root-path DIR [options]"""
import argparse
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
import projects.mmdet3d_plugin  # noqa: E402,F401  (before other mm imports, see its compat.py)
from projects.mmdet3d_plugin.datasets.gt_database import create_gt_database  # noqa: E402
from projects.mmdet3d_plugin.datasets.nuscenes_infos import SPLITS, create_nuscenes_infos  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description='Info files and ground-truth database from nuScenes tables')
    parser.add_argument('dataset', choices=['nuscenes'])
    parser.add_argument('--root-path', default='data/nuscenes', help='folder of the set (default: %(default)s); the '
                        'paths in what is written begin with it or --out-dir, relative ones work from this folder only')
    parser.add_argument('--version', choices=SPLITS, default='v1.0-trainval', help='default: %(default)s')
    parser.add_argument('--out-dir', help='folder for the results (default: the folder of the set)')
    parser.add_argument('--extra-tag', default='nuscenes', help='first part of their names (default: %(default)s)')
    parser.add_argument('--max-sweeps', type=int, default=10, help='LiDAR sweeps before each keyframe (default: 10)')
    parser.add_argument('--no-gt-database', action='store_true', help='write the info files only')
    parser.add_argument('--workers', type=int, default=4, help='processes for the database (default: %(default)s)')
    args = parser.parse_args()
    out_dir = args.out_dir or args.root_path
    infos = create_nuscenes_infos(args.root_path, args.version, out_dir, args.extra_tag, args.max_sweeps)
    if 'train' in infos and not args.no_gt_database:
        create_gt_database(infos['train'], out_dir, args.extra_tag, args.max_sweeps, args.workers)


if __name__ == '__main__':
    main()
