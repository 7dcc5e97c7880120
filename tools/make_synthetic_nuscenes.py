#!/usr/bin/env python
"""Write a synthetic data set in nuScenes' format: tools/make_synthetic_nuscenes.py --out DIR [options]"""
import argparse
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
import projects.mmdet3d_plugin  # noqa: E402,F401  (before other mm imports, see its compat.py)
from projects.mmdet3d_plugin.synthetic import SPLITS, folder_size, write_nuscenes  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description="Write a synthetic data set in nuScenes' format")
    parser.add_argument('--out', required=True, help='root folder of the data set')
    parser.add_argument('--version', default='v1.0-mini', choices=sorted(SPLITS))
    parser.add_argument('--scenes', type=int, default=10, help='training and validation scenes together')
    parser.add_argument('--val-scenes', type=int, help='validation scenes among them (default: a fifth)')
    parser.add_argument('--samples-per-scene', type=int, default=10, help='keyframes, half a second apart')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--sweeps', type=int, default=2, help='LiDAR sweeps between two keyframes')
    parser.add_argument('--azimuths', type=int, default=720, help='LiDAR steps per revolution')
    parser.add_argument('--image-width', type=int, default=400, help="pixels; nuScenes' images have 1600")
    parser.add_argument('--workers', type=int, default=2, help='processes')
    args = parser.parse_args()
    try:
        is_new = write_nuscenes(**vars(args))
    except ValueError as error:
        parser.error(str(error))
    print(f'\n{args.out}: {args.version}, {args.scenes} scenes, {folder_size(args.out) / 2 ** 20:.0f} MiB'
          f'{"" if is_new else " (was there already)"}')


if __name__ == '__main__':
    main()
