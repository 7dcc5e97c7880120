import mmcv
import numpy as np
import pytest

from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.visualization.scene_video import write_scene_video

from ..tiny_snapshot import make_snapshot


def test_the_video_shows_its_frames(tmp_path):
    """Frame by frame, as close as compression leaves it; the last one has lost all LiDAR, which is hatched."""
    lost = make_snapshot('lidar_drop', seed=2, failure=FailureRecord('lidar_drop', lidar_everywhere=True))
    count = write_scene_video(tmp_path / 'a.mp4', iter([make_snapshot(), make_snapshot(seed=1), lost]), 'scene', 4.0,
                              tmp_path / 'frames')
    pictures = [mmcv.imread(str(path)) for path in sorted((tmp_path / 'frames').iterdir())]
    video = mmcv.VideoReader(str(tmp_path / 'a.mp4'))
    assert count == video.frame_cnt == len(pictures) == 3 and video.fps == 4 and video.resolution == (1920, 860)
    distance = [[np.abs(shown.astype(int) - picture).mean() for picture in pictures] for shown in video]
    assert (np.argmin(distance, axis=1) == range(3)).all()
    assert np.diag(distance).max() < 0.5 * np.sort(distance, axis=1)[:, 1].min()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.mp4', 'frames']


def test_it_is_in_a_codec_that_browsers_play(tmp_path):
    write_scene_video(tmp_path / 'a.mp4', [make_snapshot()], 'scene')
    content = (tmp_path / 'a.mp4').read_bytes()
    assert content[4:8] == b'ftyp' and b'vp09' in content


def test_no_frames(tmp_path):
    with pytest.raises(ValueError, match='a video needs at least one frame, got none'):
        write_scene_video(tmp_path / 'a.mp4', [], 'scene')
    assert not list(tmp_path.iterdir())
