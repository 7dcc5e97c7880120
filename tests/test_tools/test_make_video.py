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


@pytest.mark.parametrize('arguments, code, message', [
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
