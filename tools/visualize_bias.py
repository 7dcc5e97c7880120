#!/usr/bin/env python
"""Look at a router: tools/visualize_bias.py CONFIG CHECKPOINT (--sample TOKEN|INDEX .. | --frame DIR) --out DIR

Draws where queries lie and which sensor they prefer, from above and in the images, what chosen queries attend to with
and without their bias, how weights and bias are distributed, and clean and failed sensors (--case) side by side. Writes
PNG files and report.html, which holds all of them and opens offline.
"""
import argparse
import os.path as osp
import shlex
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
import mmcv  # noqa: E402

import projects.mmdet3d_plugin  # noqa: E402,F401  (before other mm imports, see its compat.py)
from projects.mmdet3d_plugin.apis import build_trained_model, load_config  # noqa: E402
from projects.mmdet3d_plugin.apis import config as cli  # noqa: E402
from projects.mmdet3d_plugin.apis.distributed import default_device, seed_everything  # noqa: E402
from projects.mmdet3d_plugin.apis.routing_snapshot import (  # noqa: E402
    build_case_dataset,
    check_queries,
    check_routes,
    choose_queries,
    find_sample,
    sample_tokens,
    take_snapshot,
)
from projects.mmdet3d_plugin.datasets.sensor_failures import CASE_HELP  # noqa: E402
from projects.mmdet3d_plugin.utils.content_hash import file_sha256  # noqa: E402
from projects.mmdet3d_plugin.visualization import write_bias_report  # noqa: E402


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_config_arguments(parser)
    parser.add_argument('checkpoint', type=cli.existing_file,
                        help='checkpoint file; one without router weights gets a neutral router')
    frames = parser.add_mutually_exclusive_group(required=True)
    frames.add_argument('--sample', nargs='+', metavar='TOKEN|INDEX', help="samples of the config's test data")
    frames.add_argument('--frame', metavar='DIR', help='folder of frames, see FrameFolderDataset')
    parser.add_argument('--case', nargs='+', type=cli.failure_case, default=[], metavar='CASE',
                        help=f'sensor failures, each beside the clean sample: {CASE_HELP}')
    parser.add_argument('--queries', nargs='+', type=int, metavar='INDEX',
                        help='queries to look at closely (default: of the 20 queries with the highest scores the three '
                        'with the strongest preferences, in any case)')
    parser.add_argument('--layer', type=int, default=-1,
                        help='decoder layer whose attention is drawn (default: the last)')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for pictures and report')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of a detection that is drawn')
    parser.add_argument('--seed', type=int, default=0, help='seed of the failures')
    args = parser.parse_args()
    if args.frame is not None and not osp.isdir(args.frame):
        parser.error(f'argument --frame: no such folder: {args.frame}')
    if not 0 <= args.score_thr <= 1:
        parser.error(f'argument --score-thr: must be in [0, 1], got {args.score_thr}')
    args.case = ['clean', *(case for case in args.case if case != 'clean')]
    if len(set(args.case)) < len(args.case):
        parser.error(f'argument --case: must differ, got {", ".join(args.case)}')
    return args


def main():
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    check_routes(cfg)
    seed_everything(0)
    datasets = [build_case_dataset(cfg, case, args.frame, args.seed) for case in args.case]
    tokens = sample_tokens(datasets[0])
    indices = range(len(tokens)) if args.frame is not None else [find_sample(tokens, name) for name in args.sample]
    model = build_trained_model(cfg, args.checkpoint, trust_checkpoint=args.trust_checkpoint).to(default_device())
    head = model.pts_bbox_head
    if args.queries is not None:
        check_queries(args.queries, head.num_query)

    def samples():
        for index in indices:
            snapshots = [take_snapshot(model, dataset, index, args.layer, args.score_thr) for dataset in datasets]
            queries = choose_queries(snapshots) if args.queries is None else args.queries
            yield f'{"sample" if args.frame is None else "frame"} {index}', snapshots, queries

    facts = [
        ('config', args.config), ('checkpoint', f'{args.checkpoint} (SHA-256 {file_sha256(args.checkpoint)})'),
        ('samples' if args.frame is None else f'frames of {args.frame}',
         ', '.join(f'{index}: token {tokens[index]}' for index in indices)),
        ('cases', '; '.join(args.case) + f' (seed {args.seed})'),
        ('bias', head.aqr_bias.extra_repr() + _head_strengths(head)),
        ('detections', f'score ≥ {args.score_thr:g}'),
        ('attention', f'decoder layer {args.layer % head.transformer.decoder.num_layers} of 0 to '
         f'{head.transformer.decoder.num_layers - 1}, mean over heads'),
        ('device', default_device()), ('command', shlex.join(['tools/visualize_bias.py', *sys.argv[1:]])),
    ]
    progress = mmcv.ProgressBar(len(indices) * len(datasets))
    report = write_bias_report(args.out, f'What the router of {osp.basename(args.config)} does', facts, samples(),
                               progress.update)
    print(f'\npictures are in {args.out}; {report} holds them all')


def _head_strengths(head):
    """What the pictures of the bias leave out."""
    if head.aqr_head_strength is None:
        return ''
    low, high = head.aqr_head_strength.factors().aminmax()
    return f'; shown without the learned factors of layers and heads, {low:.2f} to {high:.2f}'


if __name__ == '__main__':
    main()
