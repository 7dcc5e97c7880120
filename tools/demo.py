#!/usr/bin/env python
"""Detect objects and draw them: tools/demo.py CONFIG [CHECKPOINT] (--frame DIR | --sample INDEX ...) --out DIR"""
import argparse
import logging
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
import mmcv  # noqa: E402
import numpy as np  # noqa: E402
from mmdet3d.datasets import build_dataset  # noqa: E402
from mmdet3d.models import build_model  # noqa: E402
from torch.utils.data import Subset  # noqa: E402

import projects.mmdet3d_plugin  # noqa: E402,F401  (before other mm imports, see its compat.py)
from projects.mmdet3d_plugin.apis import build_trained_model, inference, load_config  # noqa: E402
from projects.mmdet3d_plugin.apis import config as cli  # noqa: E402
from projects.mmdet3d_plugin.apis.distributed import default_device, seed_everything  # noqa: E402
from projects.mmdet3d_plugin.visualization import draw_bev, draw_cameras  # noqa: E402


def parse_args():
    parser = argparse.ArgumentParser(description='Detect objects in frames and draw them')
    cli.add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', type=cli.existing_checkpoint,
                        help='checkpoint file or its http(s) address; without one the weights are untrained')
    frames = parser.add_mutually_exclusive_group(required=True)
    frames.add_argument('--frame', metavar='DIR', help='folder of frames, see FrameFolderDataset')
    frames.add_argument('--sample', nargs='+', type=int, metavar='INDEX', help="samples of the config's test data")
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for pictures and detections')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score that is drawn and written')
    parser.add_argument('--drop-router', action='store_true',
                        help='leave out the router weights of an AQR checkpoint when the config has no router')
    parser.add_argument('--seed', type=int, default=0, help='seed of untrained weights')
    args = parser.parse_args()
    if args.frame is not None and not osp.isdir(args.frame):
        parser.error(f'argument --frame: no such folder: {args.frame}')
    if not 0 <= args.score_thr <= 1:
        parser.error(f'argument --score-thr: must be in [0, 1], got {args.score_thr}')
    return args


def main():
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    seed_everything(args.seed)
    if args.frame is not None:
        dataset = inference.build_frame_dataset(cfg, args.frame)
        indices = range(len(dataset))
    else:
        dataset = build_dataset(cfg.data.test, dict(test_mode=True))
        indices = args.sample
        if not all(0 <= index < len(dataset) for index in indices):
            raise ValueError(f'--sample: the test data have samples 0 to {len(dataset) - 1}, got {indices}')
    if args.checkpoint:
        model = build_trained_model(cfg, args.checkpoint, args.drop_router, args.trust_checkpoint)
    else:
        print('NO CHECKPOINT: the weights are untrained, the detections below are noise.')
        mmcv.utils.get_logger('mmcv').setLevel(logging.WARNING)  # init_weights reports each parameter
        model = build_model(cfg.model, test_cfg=cfg.get('test_cfg'))
        model.init_weights()
        model.eval()

    results, seconds = [], []
    progress = mmcv.ProgressBar(len(indices))
    for index, (sample, detections, elapsed) in zip(indices, inference.detect(model, Subset(dataset, indices))):
        results.append(detections)
        seconds.append(elapsed)
        write_frame(args, cfg, dataset, index, sample, inference.above_threshold(detections, args.score_thr))
        progress.update()
    drawn = [(result['scores_3d'] >= args.score_thr).sum().item() for result in results]
    rows = {
        'weights': args.checkpoint or 'untrained',
        'device': default_device(),
        'frames': len(indices),
        f'detections a frame, score >= {args.score_thr:g}': f'{np.mean(drawn):g}',
        **(recall_rows(dataset, results, args.score_thr) if args.frame is not None else {}),
        'model, wall time a frame (s)': f'{np.mean(seconds):.2f}',
    }
    width = max(map(len, rows))
    print('\n' + '\n'.join(f'{name:<{width}}  {value}' for name, value in rows.items()))
    print(f'pictures and detections are in {args.out}')


def recall_rows(dataset, results, score_thr):
    """What is printed of the ground truth: its boxes, and how many of them all detections and the drawn ones find.

    Args:
        dataset (FrameFolderDataset): ground truth.
        results (list[dict]): all detections of each frame.
        score_thr (float): least score of the drawn.

    Returns:
        dict[str, str]: name and value of each row.
    """
    missing = [index for index in range(len(dataset)) if not dataset.has_ground_truth(index)]
    if missing:
        return {'ground truth': 'none' if len(missing) == len(dataset) else f'- (none for frames {missing})'}
    counted = all((dataset.get_ann_info(index)['num_lidar_pts'] >= 0).all() for index in range(len(dataset)))
    least_points = 5 if counted else 0
    every = max(len(result['scores_3d']) for result in results)
    rows = {}
    for name, threshold in {'all detections': 0, f'score >= {score_thr:g}': score_thr}.items():
        metrics = dataset.evaluate(results, logger='silent', min_lidar_points=least_points, score_thr=threshold,
                                   max_detections=every)
        rows['boxes' + f' with >= {least_points} LiDAR points' * counted] = f'{metrics["num_gt"]:g}'
        recall, error = metrics['recall'], metrics['mean_centre_error']
        rows[f'of these found within 2 m (recall), {name}'] = '-' if np.isnan(recall) else f'{recall:.3f}'
        if recall > 0:
            rows[f'of these found within 2 m (recall), {name}'] += f', mean centre error {error:.3f} m'
    return rows


def write_frame(args, cfg, dataset, index, sample, detections):
    """Write the two pictures and the detections of one frame."""
    info = dataset.get_data_info(index)
    truth = inference.ground_truth(dataset, index)
    stem = osp.join(args.out, f'frame_{index:03d}')
    folder = osp.basename(osp.normpath(args.frame or dataset.data_root))
    title = f'{folder}, frame {index}, ' + (
        f'score >= {args.score_thr:g}' if args.checkpoint else 'UNTRAINED weights')
    inference.write_detections(
        f'{stem}_detections.json', detections, dataset.CLASSES, config=args.config, checkpoint=args.checkpoint,
        sample=info['sample_idx'], score_thr=args.score_thr)
    points, = sample['points']  # one test-time augmentation
    limit = np.abs(np.take(cfg.model.pts_bbox_head.bbox_coder.pc_range, [0, 1, 3, 4])).max()
    draw_bev(f'{stem}_bev.png', points.data.numpy(), truth, detections['boxes_3d'], limit, title)
    images = [mmcv.imread(file, channel_order='rgb') for file in info['img_filename']]
    names = inference.camera_names(dataset, index)
    draw_cameras(f'{stem}_cameras.png', images, info['lidar2img'], names, truth, detections['boxes_3d'], title=title)


if __name__ == '__main__':
    main()
