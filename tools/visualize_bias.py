#!/usr/bin/env python
"""Look at a router: tools/visualize_bias.py CONFIG CHECKPOINT (--sample TOKEN|INDEX .. | --frame DIR) --out DIR

Draws where queries lie and which sensor they prefer, from above and in the images, what chosen queries attend to with
and without their bias, how weights and bias are distributed, and clean and failed sensors (--case) side by side. Writes
PNG files and report.html, which holds all of them and opens offline.
"""
import os.path as osp
import shlex
import sys

import command_line


def parse_args():
    parser = command_line.new_parser(__doc__)
    command_line.add_config_arguments(parser)
    parser.add_argument('checkpoint', type=command_line.existing_file,
                        help='checkpoint file; one without router weights gets a neutral router')
    frames = parser.add_mutually_exclusive_group(required=True)
    frames.add_argument('--sample', nargs='+', metavar='TOKEN|INDEX', help="samples of the config's test data")
    frames.add_argument('--frame', type=command_line.existing_folder, metavar='DIR',
                        help='folder of frames, see FrameFolderDataset')
    parser.add_argument('--case', nargs='+', type=command_line.failure_case, default=[], metavar='CASE',
                        help=f'sensor failures, each shown beside the clean sample, {command_line.CASES_HELP}')
    parser.add_argument('--queries', nargs='+', type=int, metavar='INDEX',
                        help='queries to look at closely (default: of the 20 queries with the highest scores the three '
                        'with the strongest preferences, in any case)')
    parser.add_argument('--layer', type=int, default=-1,
                        help='decoder layer whose attention is drawn (default: the last)')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for pictures and report')
    parser.add_argument('--rrd', type=command_line.recording_file, metavar='FILE.rrd',
                        help='recording of all samples and cases to write, for the rerun viewer')
    parser.add_argument('--score-thr', type=command_line.score, default=0.3, metavar='SCORE',
                        help='lowest score of the detections that are drawn (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the failures (default: %(default)s)')
    args = parser.parse_args()
    args.case = ['clean', *(case for case in args.case if not case.is_clean)]
    command_line.require_different(parser, '--case', args.case)
    return args


def main(args):
    from projects.mmdet3d_plugin.apis import build_trained_model, load_config
    from projects.mmdet3d_plugin.apis.distributed import default_device, seed_everything
    from projects.mmdet3d_plugin.apis.routing_snapshot import (
        build_case_dataset,
        check_queries,
        check_routes,
        find_sample,
        sample_tokens,
    )
    from projects.mmdet3d_plugin.utils.atomic_file import check_destination
    cfg = load_config(args.config, args.cfg_options)
    check_routes(cfg)
    if args.rrd is not None:
        check_destination(args.rrd)
    seed_everything(0)
    datasets = [build_case_dataset(cfg, case, args.frame, args.seed) for case in args.case]
    tokens = sample_tokens(datasets[0])
    indices = range(len(tokens)) if args.frame is not None else [find_sample(tokens, name) for name in args.sample]
    model = build_trained_model(cfg, args.checkpoint, trust_checkpoint=args.trust_checkpoint,
                                classes=datasets[0].CLASSES).to(default_device())
    if args.queries is not None:
        check_queries(args.queries, model.pts_bbox_head.num_query)
    write_report(args, model, datasets, {index: tokens[index] for index in indices})


def write_report(args, model, datasets, tokens):
    """Write pictures and report, and print where they are.

    Args:
        args (Namespace): see `parse_args`.
        model (nn.Module): a detector with a router.
        datasets (list[Dataset]): the same samples under each of `args.case`.
        tokens (dict[int, str]): index in them -> token, of the samples to look at.
    """
    import mmcv

    from projects.mmdet3d_plugin.apis.routing_snapshot import choose_queries, take_snapshot
    from projects.mmdet3d_plugin.visualization import write_bias_report
    from projects.mmdet3d_plugin.visualization.rerun_recording import routing_recording

    def samples():
        for index in tokens:
            snapshots = [take_snapshot(model, dataset, index, args.layer, args.score_thr) for dataset in datasets]
            for snapshot in snapshots:
                record(snapshot, index)
            queries = choose_queries(snapshots) if args.queries is None else args.queries
            yield f'{"sample" if args.frame is None else "frame"} {index}', snapshots, queries

    options = model.pts_bbox_head.aqr_options
    progress = mmcv.ProgressBar(len(tokens) * len(datasets))
    with routing_recording(args.rrd) as record:
        report = write_bias_report(args.out, f'What the router of {osp.basename(args.config)} does',
                                   report_facts(args, model.pts_bbox_head, tokens), samples(), progress.update,
                                   f'{osp.basename(args.config)} + {osp.basename(args.checkpoint)}',
                                   options.weight_map, options.stand_ins is True)
    print(f'\npictures are in {args.out}; {report} holds them all'
          + f'; the recording is {args.rrd}' * (args.rrd is not None))


def report_facts(args, head, tokens):
    """What the report says of the pictures: list of (name, value); see `write_report` for the arguments."""
    from projects.mmdet3d_plugin.apis.distributed import default_device
    from projects.mmdet3d_plugin.utils.content_hash import file_sha256
    layers = head.transformer.decoder.num_layers
    return [
        ('config', args.config), ('checkpoint', f'{args.checkpoint} (SHA-256 {file_sha256(args.checkpoint)})'),
        ('samples' if args.frame is None else f'frames of {args.frame}',
         ', '.join(f'{index}: token {token}' for index, token in tokens.items())),
        ('cases', '; '.join(map(str, args.case)) + f' (seed {args.seed})'),
        ('bias', head.aqr_bias.extra_repr() + _head_strengths(head)),
        ('detections', f'score ≥ {args.score_thr:g}'),
        ('attention', f'decoder layer {args.layer % layers} of 0 to {layers - 1}, mean over heads'),
        ('device', default_device()), ('command', shlex.join(['tools/visualize_bias.py', *sys.argv[1:]])),
    ]


def _head_strengths(head):
    """What the pictures of the bias leave out."""
    if head.aqr_head_strength is None:
        return ''
    low, high = head.aqr_head_strength.factors().aminmax()
    return f'; shown without the learned factors of layers and heads, {low:.2f} to {high:.2f}'


if __name__ == '__main__':
    command_line.run(parse_args, main)
