#!/usr/bin/env python
"""Info files and ground-truth database from nuScenes tables: tools/create_data.py nuscenes --root-path DIR [options]"""
import command_line


def versions():
    from projects.mmdet3d_plugin.datasets.nuscenes_infos import SPLITS
    return list(SPLITS)


def parse_args():
    parser = command_line.new_parser(__doc__)
    parser.add_argument('dataset', choices=['nuscenes'], help='kind of the set')
    parser.add_argument('--root-path', default='data/nuscenes', help='folder of the set (default: %(default)s); the '
                        'paths in what is written begin with it or --out-dir; elsewhere files are looked for below '
                        'data_root of the dataset and beside the index of the database')
    parser.add_argument('--version', action=command_line.OneOf, allowed=versions, default='v1.0-trainval',
                        help='tables of nuScenes to read, such as v1.0-mini (default: %(default)s)')
    parser.add_argument('--out-dir', help='folder for the results (default: the folder of the set)')
    parser.add_argument('--extra-tag', default='nuscenes', help='first part of their names (default: %(default)s)')
    parser.add_argument('--max-sweeps', type=int, default=10, help='LiDAR sweeps before each keyframe (default: 10)')
    parser.add_argument('--splits', type=command_line.existing_file, metavar='FILE', help='JSON file {"train": [name '
                        'of scene, ...], "val": [...]} for scenes of own names (default: the official splits)')
    parser.add_argument('--skip-missing', action='store_true',
                        help='leave out samples and sweeps whose files are missing, as with a part of the downloads')
    parser.add_argument('--no-gt-database', action='store_true', help='write the info files only')
    parser.add_argument('--workers', type=int, default=4, help='processes for the database (default: %(default)s)')
    return parser.parse_args()


def main(args):
    from projects.mmdet3d_plugin.datasets.gt_database import create_gt_database
    from projects.mmdet3d_plugin.datasets.nuscenes_infos import create_nuscenes_infos
    out_dir = args.out_dir or args.root_path
    infos = create_nuscenes_infos(args.root_path, args.version, out_dir, args.extra_tag, args.max_sweeps,
                                  args.splits, args.skip_missing)
    if 'train' in infos and not args.no_gt_database:
        create_gt_database(infos['train'], out_dir, args.extra_tag, args.max_sweeps, args.workers)


if __name__ == '__main__':
    command_line.run(parse_args, main)
