#!/usr/bin/env python
"""Video of a scene: tools/make_video.py CONFIG CHECKPOINT --scene NAME [--case CASE] --out FILE.mp4 [--rrd FILE.rrd]

Every sample of a scene of the config's test data, from above and in the images: points, truth and detections with class
and score, queries in the colors of the sensor that they prefer, and what a failure took. Opens in a browser (VP9).
`--rrd` records the same for the rerun viewer, in 3D; give --out, --rrd or both.
"""
import os.path as osp
from pathlib import Path

import command_line


def parse_args():
    parser = command_line.new_parser(__doc__)
    command_line.add_config_arguments(parser)
    parser.add_argument('checkpoint', type=command_line.existing_file,
                        help='checkpoint file; one without router weights gets a neutral router')
    parser.add_argument('--scene', required=True, metavar='NAME', help='scene of the test data, such as scene-0103')
    parser.add_argument('--case', type=command_line.failure_case, default='clean', metavar='CASE',
                        help=f'sensor failure, {command_line.CASES_HELP} (default: %(default)s)')
    parser.add_argument('--out', type=_video_file, metavar='FILE.mp4', help='video to write')
    parser.add_argument('--rrd', type=command_line.recording_file, metavar='FILE.rrd',
                        help='recording to write, for the rerun viewer')
    parser.add_argument('--frames', metavar='DIR', help='folder in which the frames stay as pictures')
    parser.add_argument('--fps', type=_positive, default=2.0,
                        help='frames a second (default: %(default)s, as recorded)')
    parser.add_argument('--score-thr', type=command_line.score, default=0.3, metavar='SCORE',
                        help='lowest score of the detections that are drawn (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the failure (default: %(default)s)')
    args = parser.parse_args()
    if args.out is None and args.rrd is None:
        parser.error('one of the arguments --out --rrd is required')
    if args.out is None and args.frames is not None:
        parser.error('argument --frames: needs --out')
    return args


def _video_file(path):
    if Path(path).suffix != '.mp4':
        raise command_line.argparse.ArgumentTypeError(f'must end in .mp4, got {path}')
    return path


def _positive(text):
    value = float(text)
    if not 0 < value <= 60:
        raise command_line.argparse.ArgumentTypeError(f'must be above 0 and at most 60, got {text}')
    return value


def main(args):
    import mmcv

    from projects.mmdet3d_plugin.apis import build_trained_model, load_config
    from projects.mmdet3d_plugin.apis.distributed import default_device, seed_everything
    from projects.mmdet3d_plugin.apis.routing_snapshot import (
        build_case_dataset,
        check_routes,
        samples_of_scene,
        take_snapshot,
    )
    from projects.mmdet3d_plugin.utils.atomic_file import check_destination
    from projects.mmdet3d_plugin.visualization.rerun_recording import routing_recording
    from projects.mmdet3d_plugin.visualization.scene_video import write_scene_video
    cfg = load_config(args.config, args.cfg_options)
    check_routes(cfg)
    written = [path for path in (args.out, args.rrd) if path is not None]
    for path in written:
        check_destination(path)
    seed_everything(0)
    dataset = build_case_dataset(cfg, args.case, seed=args.seed)
    indices = samples_of_scene(dataset, args.scene)
    model = build_trained_model(cfg, args.checkpoint, trust_checkpoint=args.trust_checkpoint,
                                classes=dataset.CLASSES).to(default_device())
    times = [1e-6 * dataset.data_infos[index]['timestamp'] for index in indices]

    def snapshots():
        for frame, index in enumerate(mmcv.track_iter_progress(indices)):
            snapshot = take_snapshot(model, dataset, index, score_thr=args.score_thr)
            record(snapshot, frame, times[frame] - times[0])
            yield snapshot

    title = f'{osp.basename(args.config)} + {osp.basename(args.checkpoint)}: {args.scene}, {args.case}'
    with routing_recording(args.rrd) as record:
        count = (sum(1 for _ in snapshots()) if args.out is None else
                 write_scene_video(args.out, snapshots(), title, args.fps, args.frames))
    print(f'\nwrote {" and ".join(written)}, {count} frames')


if __name__ == '__main__':
    command_line.run(parse_args, main)
