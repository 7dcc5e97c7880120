"""Videos of a scene: from above and in the images, frame by frame, with what a router prefers and what is lost."""
import tempfile
from pathlib import Path

import mmcv

from ..utils.atomic_file import atomic_path
from .figures import legend_under, new_figure, save_figure
from .frame_axes import camera_grid
from .preference_colors import preference_bar
from .routing_pictures import caption, draw_routing_bev, draw_routing_view

# VP9 in MP4: browsers play it, and OpenCV's wheels have its encoder; they have none for H.264.
_CODEC = 'vp09'
_SIZE = 19.2, 8.6  # inches of 100 dots: even numbers of pixels, as the codec wants them
_FRAME = '{:06d}.png'


def write_scene_video(path, snapshots, title, fps=2.0, frames_dir=None):
    """Draw frames and join them to a video.

    Args:
        path (str | Path): `.mp4` file to write.
        snapshots (Iterable[RoutingSnapshot]): of the scene's samples, in the order of time.
        title (str): of every frame; its number follows.
        fps (float): frames a second.
        frames_dir (str | Path | None): folder in which the frames stay as PNG files; None: they are removed.

    Returns:
        int: number of frames.

    Raises:
        ValueError: no snapshot.
        RuntimeError: OpenCV could not write the video.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(frames_dir or folder)
        count = 0
        for count, snapshot in enumerate(snapshots, 1):
            save_figure(scene_figure(snapshot, f'{title}, frame {count}'), folder / _FRAME.format(count - 1))
        if not count:
            raise ValueError('snapshots: a video needs at least one frame, got none')
        with atomic_path(path) as temporary:
            mmcv.frames2video(str(folder), str(temporary), fps=fps, fourcc=_CODEC, filename_tmpl=_FRAME, end=count,
                              show_progress=False)
            if not temporary.stat().st_size or mmcv.VideoReader(str(temporary)).frame_cnt != count:
                raise RuntimeError(f'{path}: OpenCV wrote no video of {count} frames with codec {_CODEC}; is its '
                                   'FFMPEG missing? The pinned opencv-python-headless has it')
    return count


def scene_figure(snapshot, title):
    """A frame: the BEV map at the left, the images at the right, below them their legend."""
    figure = new_figure(_SIZE, dpi=100)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.75))
    bev = left.subplots()
    handles = draw_routing_bev(bev, snapshot)
    bev.set_title(caption(snapshot, snapshot.regions(), width=85), fontsize=9, loc='left')
    legend_under(bev, handles, columns=3)
    order, rows, columns = camera_grid(snapshot.camera_names)
    axes = right.subplots(rows, columns, squeeze=False).flatten()
    for place, view in zip(axes, order):
        draw_routing_view(place, snapshot, view)
        place.title.set_fontsize(8)
    for place in axes[len(order):]:
        place.set_axis_off()
    preference_bar(right, list(axes), location='bottom', shrink=0.6, aspect=40)
    figure.suptitle(title)
    return figure
