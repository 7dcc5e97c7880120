#!/usr/bin/env python
"""Look at training data as the network gets them: tools/browse_dataset.py CONFIG [--samples INDEX ..] [--out DIR]

Draws samples of the config's data.train after its whole pipeline, augmentation included: points and boxes from above,
and the images with projected boxes, by the calibration that follows the augmentation. No model is needed.
"""
import os.path as osp

import command_line


def parse_args():
    parser = command_line.new_parser(__doc__)
    command_line.add_config_arguments(parser)
    command_line.add_frame_argument(parser)
    parser.add_argument('--samples', nargs='+', type=int, default=[0, 1, 2], metavar='INDEX',
                        help='samples of the training data (default: the first three)')
    parser.add_argument('--out', metavar='DIR',
                        help='folder for the pictures (default: ./work_dirs/dataset_<config name>)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the augmentation (default: %(default)s)')
    args = parser.parse_args()
    command_line.require_different(parser, '--samples', args.samples)
    return args


def main(args):
    from mmdet3d.datasets import build_dataset

    from projects.mmdet3d_plugin.apis.distributed import seed_everything
    from projects.mmdet3d_plugin.visualization.training_pictures import draw_training_sample
    cfg = command_line.load_config(args, ['train'])
    dataset = build_dataset(cfg.data.train)
    unknown = [index for index in args.samples if not 0 <= index < len(dataset)]
    if unknown:
        command_line.refuse(f'argument --samples: data.train has samples 0 to {len(dataset) - 1}, got {unknown}')
    out = args.out or osp.join('work_dirs', f'dataset_{osp.splitext(osp.basename(args.config))[0]}')
    limit = max(map(abs, cfg.get('point_cloud_range', [54.0])))
    for index in args.samples:
        seed_everything(args.seed)
        path = osp.join(out, f'sample_{index}.png')
        title = f'{osp.basename(args.config)}, data.train[{index}], seed {args.seed}'
        draw_training_sample(path, dataset[index], cfg.class_names, limit, title)
        print(f'wrote {path}', flush=True)


if __name__ == '__main__':
    command_line.run(parse_args, main)
