#!/usr/bin/env python
"""Look at sensor failures: tools/browse_failures.py CONFIG [--preset ..] [--cases ..] [--sample TOKEN|INDEX]

Draws contact sheets of the config's test data: for every case the points from above and one camera image, clean beside
corrupted, with what the failure's record says. No model is needed.
"""
import os.path as osp

import command_line


def parse_args():
    parser = command_line.new_parser(__doc__)
    command_line.add_config_arguments(parser)
    command_line.add_frame_argument(parser)
    command_line.add_case_arguments(parser, 'to look at', 'all presets, and every severity of every failure')
    parser.add_argument('--sample', nargs='+', default=['0'], metavar='TOKEN|INDEX',
                        help="samples of the config's test data (default: the first)")
    parser.add_argument('--view', metavar='CAMERA',
                        help='camera to show (default: one that the failure struck, else the front)')
    parser.add_argument('--out', metavar='DIR',
                        help='folder for the pages (default: ./work_dirs/failures_<config name>)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the failures (default: %(default)s)')
    args = parser.parse_args()
    command_line.require_different(parser, '--sample', args.sample)
    return args


def main(args):
    from projects.mmdet3d_plugin.apis.failing_sensors import case_datasets, every_case
    from projects.mmdet3d_plugin.apis.inference import ground_truth
    from projects.mmdet3d_plugin.apis.routing_snapshot import find_sample, sample_tokens
    from projects.mmdet3d_plugin.visualization.contact_sheet import draw_contact_sheets, sheet_rows
    out = args.out or osp.join('work_dirs', f'failures_{osp.splitext(osp.basename(args.config))[0]}')
    cfg = command_line.load_config(args, ['test'])
    cases = args.cases or every_case()
    limit = max(map(abs, cfg.get('point_cloud_range', [54.0])))
    (_, dataset), = case_datasets(cfg, ['clean'])
    tokens = sample_tokens(dataset)
    for index in [find_sample(tokens, name) for name in args.sample]:
        title = f'{osp.basename(args.config)}, sample {index} ({tokens[index]}), seed {args.seed}'
        rows = sheet_rows(cfg, cases, index, args.view, args.seed)
        for page in draw_contact_sheets(osp.join(out, f'sample_{index}'), rows, title, limit,
                                        ground_truth(dataset, index)):
            print(f'wrote {page}', flush=True)


if __name__ == '__main__':
    command_line.run(parse_args, main)
