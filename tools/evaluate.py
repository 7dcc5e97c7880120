#!/usr/bin/env python
"""Evaluate the detections that tools/test.py --out wrote: tools/evaluate.py CONFIG RESULTS.pkl [options]"""
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
    parser.add_argument('--trust-data', action='store_true',
                        help='read detections that hold more than boxes, tensors and plain values, which can run code '
                        'hidden in the file: only for files whose origin you trust')
    return parser.parse_args()


def main(args):
    from projects.mmdet3d_plugin.apis import evaluate_results
    evaluate_results(command_line.load_config(args, ['test']), args.results, args.eval_options, args.trust_data)


if __name__ == '__main__':
    command_line.run(parse_args, main)
