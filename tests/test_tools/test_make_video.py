import sys

import mmcv
import pytest


@pytest.fixture(scope='module')
def make_video(run_tool, repo_root, synthetic_nuscenes):
    """Run the tool on the generated set; returns what it printed."""

    def run(*arguments, config='cmt_aqr_synthetic.py', code=0):
        data = [f'data.test.data_root={synthetic_nuscenes}/',
                f'data.test.ann_file={synthetic_nuscenes / "nuscenes_infos_val.pkl"}']
        return run_tool('make_video.py', repo_root / 'configs' / config, repo_root / 'checkpoints/cmt_synthetic.pth',
                        *arguments, '--cfg-options', *data, cwd=repo_root, code=code)

    return run


def test_a_scene_with_a_failure(make_video, tmp_path):
    out = tmp_path / 'scene.mp4'
    text = make_video('--scene', 'scene-0103', '--case', 'view_drop:CAM_FRONT', '--out', out, '--fps', 5)
    assert f'wrote {out}, 2 frames' in text
    assert mmcv.VideoReader(str(out)).frame_cnt == 2 and mmcv.VideoReader(str(out)).fps == 5


def test_a_recording_without_a_video(make_video, tmp_path):
    """Of the same samples, half a second apart, as their timestamps say."""
    dataframe = pytest.importorskip('rerun.dataframe', reason='rerun-sdk is not installed')
    text = make_video('--scene', 'scene-0103', '--rrd', tmp_path / 'scene.rrd')
    assert f'wrote {tmp_path / "scene.rrd"}, 2 frames' in text
    recording = dataframe.load_recording(str(tmp_path / 'scene.rrd'))
    table = recording.view(index='time', contents='/clean/points').select().read_all()
    assert table['frame'].to_pylist() == [0, 1] and table['time'].cast('int64').to_pylist() == [0, 500_000_000]
    assert all(len(points) > 100 for points in table['/clean/points:Position3D'].to_pylist())
    assert 'argument --frames: needs --out' in make_video('--scene', 'scene-0103', '--rrd', tmp_path / 'b.rrd',
                                                          '--frames', tmp_path / 'frames', code=2)


def test_a_recording_where_rerun_is_absent(make_video, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'rerun', None)
    text = make_video('--scene', 'scene-0103', '--rrd', tmp_path / 'scene.rrd', code=2)
    assert "argument --rrd: recordings for the rerun viewer need rerun-sdk: pip install 'rerun-sdk==" in text


@pytest.mark.parametrize('arguments, code, message', [
    (['--scene', 'scene-0103'], 2, 'one of the arguments --out --rrd is required'),
    (['--scene', 'scene-0103', '--rrd', 'a.mp4'], 2, 'argument --rrd: must end in .rrd, got a.mp4'),
    (['--scene', 'scene-9999', '--out', 'a.mp4'], None, "no sample of scene 'scene-9999' in the test data: its scenes"),
    (['--scene', 'scene-0103', '--out', 'a.avi'], 2, 'argument --out: must end in .mp4, got a.avi'),
    (['--scene', 'scene-0103', '--out', 'a.mp4', '--fps', '0'], 2, 'must be above 0 and at most 60, got 0'),
    (['--scene', 'scene-0103', '--out', 'a.mp4', '--case', 'rain'], 2, "'rain' is no failure"),
])
def test_mistakes(make_video, arguments, code, message):
    assert message in make_video(*arguments, code=code)


def test_a_model_without_a_router(make_video):
    text = make_video('--scene', 'scene-0103', '--out', 'a.mp4', config='cmt_synthetic.py', code=None)
    assert 'the model has no router to look at' in text
