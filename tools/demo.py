#!/usr/bin/env python
"""Detect objects and draw them: tools/demo.py CONFIG [CHECKPOINT] (--frame DIR | --sample TOKEN|INDEX ...) --out DIR"""
import logging
import math
import os.path as osp
import statistics

import command_line


def parse_args():
    parser = command_line.new_parser(__doc__)
    command_line.add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', type=command_line.existing_checkpoint,
                        help='checkpoint file or its http(s) address; without one the weights are untrained')
    frames = parser.add_mutually_exclusive_group(required=True)
    frames.add_argument('--frame', type=command_line.existing_folder, metavar='DIR',
                        help='folder of frames, see FrameFolderDataset')
    frames.add_argument('--sample', nargs='+', metavar='TOKEN|INDEX', help="samples of the config's test data")
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for pictures and detections')
    parser.add_argument('--score-thr', type=command_line.score, default=0.3, metavar='SCORE',
                        help='lowest score of the detections that are drawn and written (default: %(default)s)')
    command_line.add_drop_router_argument(parser)
    parser.add_argument('--seed', type=int, default=0, help='seed of untrained weights (default: %(default)s)')
    return parser.parse_args()


def main(args):
    import mmcv
    from torch.utils.data import Subset

    from projects.mmdet3d_plugin.apis import inference, load_config
    from projects.mmdet3d_plugin.apis.distributed import default_device, seed_everything
    cfg = load_config(args.config, args.cfg_options)
    seed_everything(args.seed)
    dataset, indices = select_frames(args, cfg)
    model = load_model(args, cfg, dataset.CLASSES)

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
        f'detections a frame, score >= {args.score_thr:g}': f'{statistics.mean(drawn):g}',
        **(recall_rows(dataset, results, args.score_thr) if args.frame is not None else {}),
        'model, wall time a frame (s)': f'{statistics.mean(seconds):.2f}',
    }
    width = max(map(len, rows))
    print('\n' + '\n'.join(f'{name:<{width}}  {value}' for name, value in rows.items()))
    print(f'pictures and detections are in {args.out}')


def select_frames(args, cfg):
    """The dataset of --frame or --sample, and the indices of its samples to look at."""
    from mmdet3d.datasets import build_dataset

    from projects.mmdet3d_plugin.apis.inference import build_frame_dataset
    from projects.mmdet3d_plugin.apis.routing_snapshot import find_sample, sample_tokens
    if args.frame is not None:
        dataset = build_frame_dataset(cfg, args.frame)
        return dataset, range(len(dataset))
    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    tokens = sample_tokens(dataset)
    return dataset, [find_sample(tokens, sample) for sample in args.sample]


def load_model(args, cfg, classes):
    """The model with the weights of the checkpoint, or untrained ones where there is none, for the classes of data."""
    import mmcv
    from mmdet3d.models import build_model

    from projects.mmdet3d_plugin.apis import build_trained_model
    from projects.mmdet3d_plugin.apis.class_names import report_classes_of_data
    if args.checkpoint:
        return build_trained_model(cfg, args.checkpoint, args.drop_router, args.trust_checkpoint, classes)
    print('NO CHECKPOINT: the weights are untrained, the detections below are noise.')
    mmcv.utils.get_logger('mmcv').setLevel(logging.WARNING)  # init_weights reports each parameter
    model = build_model(cfg.model, test_cfg=cfg.get('test_cfg'))
    report_classes_of_data(model, 'data.test', classes, {})
    model.init_weights()
    return model.eval()


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
        recall, error = metrics['recall'], metrics['mean_center_error']
        rows[f'of these found within 2 m (recall), {name}'] = '-' if math.isnan(recall) else f'{recall:.3f}'
        if recall > 0:
            rows[f'of these found within 2 m (recall), {name}'] += f', mean center error {error:.3f} m'
    return rows


def write_frame(args, cfg, dataset, index, sample, detections):
    """Write the two pictures and the detections of one frame."""
    import mmcv

    from projects.mmdet3d_plugin.apis import inference
    from projects.mmdet3d_plugin.visualization import draw_bev, draw_cameras
    from projects.mmdet3d_plugin.visualization.frame_axes import detection_labels
    info = dataset.get_data_info(index)
    truth = inference.ground_truth(dataset, index)
    stem = osp.join(args.out, f'frame_{index:03d}')
    folder = osp.basename(osp.normpath(args.frame or dataset.data_root))
    weights = osp.basename(args.checkpoint) if args.checkpoint else 'UNTRAINED weights'
    title = f'{osp.basename(args.config)} + {weights}: {folder}, frame {index}, score ≥ {args.score_thr:g}'
    labels = detection_labels(detections, dataset.CLASSES)
    inference.write_detections(
        f'{stem}_detections.json', detections, dataset.CLASSES, config=args.config, checkpoint=args.checkpoint,
        sample=info['sample_idx'], score_thr=args.score_thr)
    points, = sample['points']  # one test-time augmentation
    x_min, y_min, _, x_max, y_max, _ = cfg.model.pts_bbox_head.bbox_coder.pc_range
    limit = max(map(abs, (x_min, y_min, x_max, y_max)))
    draw_bev(f'{stem}_bev.png', points.data.numpy(), truth, detections['boxes_3d'], limit, title, labels)
    images = [mmcv.imread(file, channel_order='rgb') for file in info['img_filename']]
    names = inference.camera_names(dataset, index)
    draw_cameras(f'{stem}_cameras.png', images, info['lidar2img'], names, truth, detections['boxes_3d'], title, labels)


if __name__ == '__main__':
    command_line.run(parse_args, main)
