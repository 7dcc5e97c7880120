#!/usr/bin/env python
"""Evaluate the detections that tools/test.py --out wrote: tools/evaluate.py CONFIG RESULTS.pkl [options]

With --table, also AP per class at each threshold and by distance to the vehicle; with --curves, precision against
recall.
"""
import command_line


def parse_args():
    parser = command_line.new_parser(__doc__)
    parser.add_argument('config', type=command_line.existing_file, help='config file whose data.test was tested')
    parser.add_argument('results', metavar='RESULTS.pkl', type=command_line.existing_file,
                        help='file of test.py --out')
    command_line.add_frame_argument(parser)
    parser.add_argument('--cfg-options', nargs='+', action=command_line.OptionAction, metavar='KEY=VALUE',
                        help='override settings of the config; those that choose the samples as in the test')
    parser.add_argument('--eval-options', nargs='+', action=command_line.OptionAction, metavar='KEY=VALUE',
                        help='further arguments of dataset.evaluate()')
    parser.add_argument('--table', metavar='FILE.csv', help='print AP per class, threshold and distance, and write it')
    parser.add_argument('--curves', metavar='FILE.png', help='draw precision against recall of every class at 2 m')
    parser.add_argument('--trust-data', action='store_true',
                        help='read detections that hold more than boxes, tensors and plain values, which can run code '
                        'hidden in the file: only for files whose origin you trust')
    return parser.parse_args()


def main(args):
    from projects.mmdet3d_plugin.apis import evaluate_results
    cfg = command_line.load_config(args, ['test'])
    evaluate_results(cfg, args.results, args.eval_options, args.trust_data)
    if args.table or args.curves:
        from projects.mmdet3d_plugin.apis.precision_report import precision_of_results
        from projects.mmdet3d_plugin.utils.tables import markdown_table, write_csv
        from projects.mmdet3d_plugin.visualization.plots import draw_precision_recall
        rows, curves = precision_of_results(cfg, args.results, args.trust_data)
        if args.table:
            print(markdown_table(rows))
            write_csv(args.table, rows)
        if args.curves:
            draw_precision_recall(args.curves, curves)


if __name__ == '__main__':
    command_line.run(parse_args, main)
