#!/usr/bin/env python
"""Test a detector: tools/test.py CONFIG CHECKPOINT (--out FILE | --eval METRIC ... | --format-only) [options]"""
import command_line


def parse_args():
    parser = command_line.new_parser(__doc__)
    command_line.add_config_arguments(parser)
    parser.add_argument('checkpoint', type=command_line.existing_checkpoint,
                        help='checkpoint file or its http(s) address')
    command_line.add_frame_argument(parser)
    command_line.add_process_arguments(parser)
    parser.add_argument('--out', help='pickle file for the detections')
    parser.add_argument('--eval', nargs='+', metavar='METRIC', help='evaluate with these metrics (nuScenes: bbox)')
    parser.add_argument('--format-only', action='store_true', help='only write the submission files of the dataset')
    parser.add_argument('--eval-options', nargs='+', action=command_line.OptionAction, metavar='KEY=VALUE',
                        help='further arguments of dataset.evaluate() or dataset.format_results()')
    parser.add_argument('--fuse-conv-bn', action='store_true', help='merge BatchNorm into convolutions')
    parser.add_argument('--gpu-collect', action='store_true', help='several processes collect results through GPUs')
    parser.add_argument('--tmpdir', help='folder through which several processes collect results otherwise')
    command_line.add_drop_router_argument(parser)
    args = command_line.parse_process_arguments(parser)
    if not (args.out or args.eval or args.format_only):
        parser.error('nothing to do with the detections: give --out, --eval or --format-only')
    if args.eval and args.format_only:
        parser.error('--eval and --format-only exclude each other')
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end with .pkl or .pickle, got {args.out!r}')
    return args


def main(args):
    from projects.mmdet3d_plugin.apis import run_test
    run_test(command_line.load_config(args, ['test']), args.checkpoint, args.out, args.eval, args.format_only,
             args.eval_options, args.fuse_conv_bn, args.launcher, args.gpu_id, args.gpu_collect, args.tmpdir, args.seed,
             args.deterministic, args.drop_router, args.trust_checkpoint)


if __name__ == '__main__':
    command_line.run(parse_args, main)
