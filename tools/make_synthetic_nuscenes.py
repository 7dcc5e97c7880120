#!/usr/bin/env python
"""Write a synthetic data set in nuScenes' format: tools/make_synthetic_nuscenes.py --out DIR [options]"""
import command_line


def versions():
    from projects.mmdet3d_plugin.synthetic import SPLITS
    return list(SPLITS)


def parse_args():
    parser = command_line.new_parser(__doc__)
    parser.add_argument('--out', required=True, help='root folder of the data set')
    parser.add_argument('--version', action=command_line.OneOf, allowed=versions, default='v1.0-mini',
                        help='version of nuScenes whose names of scenes it takes (default: %(default)s)')
    parser.add_argument('--scenes', type=int, default=10,
                        help='training and validation scenes together (default: %(default)s)')
    parser.add_argument('--val-scenes', type=int, help='validation scenes among them (default: a fifth)')
    parser.add_argument('--samples-per-scene', type=int, default=10,
                        help='keyframes, half a second apart (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the worlds (default: %(default)s)')
    parser.add_argument('--sweeps', type=int, default=2, help='LiDAR sweeps between two keyframes (default: 2)')
    parser.add_argument('--azimuths', type=int, default=720, help='LiDAR steps per revolution (default: 720)')
    parser.add_argument('--image-width', type=int, default=400,
                        help="pixels; nuScenes' images have 1600 (default: %(default)s)")
    parser.add_argument('--workers', type=int, default=2, help='processes (default: %(default)s)')
    return parser.parse_args()


def main(args):
    from projects.mmdet3d_plugin.synthetic import folder_size, write_nuscenes
    try:
        is_new = write_nuscenes(**vars(args))
    except ValueError as error:
        command_line.refuse(error)
    print(f'\n{args.out}: {args.version}, {args.scenes} scenes, {folder_size(args.out) / 2 ** 20:.0f} MiB'
          f'{"" if is_new else " (was there already)"}')


if __name__ == '__main__':
    command_line.run(parse_args, main)
