#!/usr/bin/env python
"""Cost of a detector by part: tools/analyze_model.py CONFIG [--device cpu cuda] [--runs N] [--out FILE.csv]

Parameters, floating-point operations (torch's counter; without spconv's convolutions), milliseconds and frames per
second of the image branch, the LiDAR branch, the head and what routing adds, on one sample of the config's test data.
"""
import command_line


def parse_args():
    parser = command_line.new_parser(__doc__)
    command_line.add_config_arguments(parser)
    command_line.add_frame_argument(parser)
    parser.add_argument('--checkpoint', type=command_line.existing_file,
                        help='weights (default: random ones, which cost the same but for a router: a fresh one is '
                        'neutral, and attention without a bias costs less)')
    parser.add_argument('--sample', default='0', metavar='TOKEN|INDEX', help='of the test data (default: the first)')
    parser.add_argument('--device', nargs='+', choices=('cpu', 'cuda'),
                        help='where to measure, one table each (default: cuda where torch sees a GPU, else cpu)')
    parser.add_argument('--runs', type=command_line.positive_integer, default=5,
                        help='timed passes, of which the median counts (default: %(default)s)')
    parser.add_argument('--out', metavar='FILE.csv', help='also write all rows to this file')
    args = parser.parse_args()
    command_line.require_different(parser, '--device', args.device)
    return args


def main(args):
    from mmdet3d.datasets import build_dataset
    from mmdet3d.models import build_model

    from projects.mmdet3d_plugin.apis import build_trained_model
    from projects.mmdet3d_plugin.apis.distributed import default_device, seed_everything
    from projects.mmdet3d_plugin.apis.model_cost import model_cost
    from projects.mmdet3d_plugin.apis.routing_snapshot import find_sample, sample_tokens
    from projects.mmdet3d_plugin.utils.tables import markdown_table, write_csv
    cfg = command_line.load_config(args, ['test'])
    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    index = find_sample(sample_tokens(dataset), args.sample)
    seed_everything(0)
    if args.checkpoint:
        model = build_trained_model(cfg, args.checkpoint, trust_checkpoint=args.trust_checkpoint,
                                    classes=dataset.CLASSES)
    else:
        model = build_model(cfg.model)
    every_row = []
    for device in args.device or [default_device()]:
        try:
            rows = model_cost(model.eval(), dataset[index], device, args.runs)
        except ValueError as error:
            command_line.refuse(error)
        print(f'{device}, sample {index}, median of {args.runs} passes')
        print(markdown_table(rows), flush=True)
        every_row += [dict(device=device, **row) for row in rows]
    if args.out:
        write_csv(args.out, every_row)


if __name__ == '__main__':
    command_line.run(parse_args, main)
