#!/usr/bin/env python
"""Detect objects in frames given as files and draw them: tools/demo.py CONFIG [CHECKPOINT] --frame DIR --out DIR"""
import argparse
import logging
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
import projects.mmdet3d_plugin  # noqa: E402,F401  (before other mm imports, see its compat.py)
import mmcv  # noqa: E402
import numpy as np  # noqa: E402
from mmdet3d.models import build_model  # noqa: E402
from projects.mmdet3d_plugin.apis import build_trained_model, inference, load_config  # noqa: E402
from projects.mmdet3d_plugin.apis import config as cli  # noqa: E402
from projects.mmdet3d_plugin.apis.distributed import default_device, seed_everything  # noqa: E402
from projects.mmdet3d_plugin.visualization import draw_bev, draw_cameras  # noqa: E402


def parse_args():
    parser = argparse.ArgumentParser(description='Detect objects in frames given as files and draw them')
    cli.add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', type=cli.existing_checkpoint,
                        help='checkpoint file or its http(s) address; without one the weights are untrained')
    parser.add_argument('--frame', required=True, metavar='DIR', help='folder of frames, see FrameFolderDataset')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for pictures and detections')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score that is drawn, written and counted')
    parser.add_argument('--seed', type=int, default=0, help='seed of untrained weights')
    args = parser.parse_args()
    if not osp.isdir(args.frame):
        parser.error(f'argument --frame: no such folder: {args.frame}')
    if not 0 <= args.score_thr <= 1:
        parser.error(f'argument --score-thr: must be in [0, 1], got {args.score_thr}')
    return args


def main():
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    seed_everything(args.seed)
    dataset = inference.build_frame_dataset(cfg, args.frame)
    if args.checkpoint:
        model = build_trained_model(cfg, args.checkpoint, trust_checkpoint=args.trust_checkpoint)
    else:
        print('NO CHECKPOINT: the weights are untrained, the detections below are noise.')
        mmcv.utils.get_logger('mmcv').setLevel(logging.WARNING)  # init_weights reports each parameter
        model = build_model(cfg.model, test_cfg=cfg.get('test_cfg'))
        model.init_weights()
        model.eval()

    results, seconds = [], []
    progress = mmcv.ProgressBar(len(dataset))
    for index, (sample, detections, elapsed) in enumerate(inference.detect(model, dataset)):
        results.append(inference.above_threshold(detections, args.score_thr))
        seconds.append(elapsed)
        write_frame(args, dataset, index, sample, results[-1])
        progress.update()
    metrics = dataset.evaluate(results, logger='silent')
    rows = {
        'weights': args.checkpoint or 'untrained',
        'device': default_device(),
        'frames': len(dataset),
        f'detections a frame, score >= {args.score_thr:g}': f'{metrics["num_detections"]:g}',
        'boxes with >= 5 LiDAR points': f'{metrics["num_gt"]:g}',
        'of these found within 2 m (recall)': f'{metrics["recall"]:.3f}',
        'mean centre error of the found (m)': f'{metrics["mean_centre_error"]:.3f}' if metrics['recall'] > 0 else '-',
        'model, wall time a frame (s)': f'{np.mean(seconds):.2f}',
    }
    print('\n' + '\n'.join(f'{name:<40} {value}' for name, value in rows.items()))
    print(f'pictures and detections are in {args.out}')


def write_frame(args, dataset, index, sample, detections):
    """Write the two pictures and the detections of one frame."""
    info = dataset.get_data_info(index)
    truth = dataset.get_ann_info(index)['gt_bboxes_3d']
    stem = osp.join(args.out, f'frame_{index:03d}')
    title = f'{osp.basename(osp.normpath(args.frame))}, frame {index}, ' + (
        f'score >= {args.score_thr:g}' if args.checkpoint else 'UNTRAINED weights')
    inference.write_detections(
        f'{stem}_detections.json', detections, dataset.CLASSES, config=args.config, checkpoint=args.checkpoint,
        sample=info['sample_idx'], score_thr=args.score_thr)
    points, = sample['points']  # one test-time augmentation
    draw_bev(f'{stem}_bev.png', points.data.numpy(), truth, detections['boxes_3d'], title=title)
    images = [mmcv.imread(file, channel_order='rgb') for file in info['img_filename']]
    names = list(dataset.data_infos[index]['images'])
    draw_cameras(f'{stem}_cameras.png', images, info['lidar2img'], names, truth, detections['boxes_3d'], title=title)


if __name__ == '__main__':
    main()
