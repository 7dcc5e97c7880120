"""Recordings read back by rerun's own reader against the snapshots they show, and by plain geometry."""
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.visualization.preference_colors import PREFERENCE_MAP
from projects.mmdet3d_plugin.visualization.rerun_recording import REQUIREMENTS, routing_recording, split_projection

from ..tiny_snapshot import CAMERAS, FOCAL, HEIGHT, WIDTH, make_snapshot

CASE = 'view_drop:CAM_FRONT'


@pytest.fixture(scope='module')
def snapshots():
    """Two samples, each clean and under a failure; the second has no annotations, and under the failure no
    detections and a camera less."""
    lost = FailureRecord(CASE, views_lost=np.arange(6) == 0)
    made = [[make_snapshot(seed=seed), make_snapshot(CASE, seed, failure=lost)] for seed in range(2)]
    for snapshot in made[1]:
        object.__setattr__(snapshot, 'ground_truth', None)
    last = made[1][1]
    last.detections.update({name: values[:0] for name, values in last.detections.items()})
    for part in ('camera_names', 'images', 'lidar2img'):  # without the last camera
        object.__setattr__(last, part, getattr(last, part)[:-1])
    return made


@pytest.fixture(scope='module')
def recording(snapshots, tmp_path_factory):
    """Function: frame, case, entity, component, timeline -> what a viewer shows then, None where there is nothing."""
    missing = f'rerun-sdk is not installed: pip install {" ".join(map(repr, REQUIREMENTS))}'
    dataframe = pytest.importorskip('rerun.dataframe', reason=missing)
    path = tmp_path_factory.mktemp('recording') / 'new' / 'a.rrd'
    with routing_recording(path) as record:
        for frame, of_cases in enumerate(snapshots):
            for snapshot in of_cases:
                record(snapshot, 10 * frame, 0.5 * frame)
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == ['a.rrd']
    read = dataframe.load_recording(str(path))

    def value(frame, case, entity, component, timeline='frame'):
        place = f'/{escaped(case)}/{escaped(entity)}'
        view = read.view(index=timeline, contents=place).using_index_values(np.array([frame])).fill_latest_at()
        table = view.select().read_all()
        return table[f'{place}:{component}'].to_pylist()[0] if f'{place}:{component}' in table.column_names else None

    return value


def escaped(name):
    return ''.join(f'\\{letter}' if letter in ' :+,' else letter for letter in name)


@pytest.mark.parametrize('case', ['clean', CASE])
@pytest.mark.parametrize('number', [0, 1])
def test_points_and_queries(recording, snapshots, number, case):
    snapshot, frame = snapshots[number][case == CASE], 10 * number
    np.testing.assert_allclose(recording(frame, case, 'points', 'Position3D'), snapshot.points[:, :3], rtol=1e-6)
    np.testing.assert_allclose(recording(frame, case, 'queries', 'Position3D'), snapshot.positions, rtol=1e-6)
    colors = np.array(recording(frame, case, 'queries', 'Color'), dtype='>u4').view(np.uint8).reshape(-1, 4)
    weights = snapshot.lidar_weights - snapshot.camera_weights
    np.testing.assert_allclose(colors / 255, PREFERENCE_MAP((weights + 1) / 2), atol=1.01 / 255)
    leader = weights.argmax()
    assert recording(frame, case, 'queries', 'Text')[leader].endswith(f'preference {weights[leader]:+.2f}')


@pytest.mark.parametrize('name', ['ground truth', 'detections'])
def test_boxes_by_their_corners(recording, snapshots, name):
    boxes = snapshots[0][0].ground_truth if name == 'ground truth' else snapshots[0][0].detections['boxes_3d']
    parts = [np.array(recording(0, 'clean', name, part)) for part in ('PoseTranslation3D', 'HalfSize3D',
                                                                      'PoseRotationQuat')]
    assert all(len(part) == len(boxes) for part in parts)
    signs = np.stack(np.meshgrid(*[[-1, 1]] * 3), axis=-1).reshape(-1, 3)
    for center, half, turn, expected in zip(*parts, boxes.corners.numpy()):
        corners = center + Rotation.from_quat(turn).apply(signs * half)
        distance = np.linalg.norm(corners[:, None] - expected[None], axis=-1)
        assert (distance.min(axis=0) < 1e-4).all() and (distance.min(axis=1) < 1e-4).all()
    arrows = np.add(recording(0, 'clean', f'{name}/front', 'Position3D'),
                    recording(0, 'clean', f'{name}/front', 'Vector3D'))
    np.testing.assert_allclose(arrows, boxes.corners[:, 4:].mean(dim=1).numpy(), atol=1e-4)  # 4 to 7 are the front
    assert recording(0, 'clean', 'detections', 'Text') == ['car 0.70']


def test_what_a_sample_lacks_does_not_stay_from_the_one_before(recording):
    for case, name in (('clean', 'ground truth'), (CASE, 'detections')):
        assert recording(0, case, name, 'HalfSize3D') and not recording(10, case, name, 'HalfSize3D')
        assert not recording(10, case, f'{name}/front', 'Vector3D')
    last = 'cameras/CAM_BACK_RIGHT'
    assert recording(10, 'clean', last, 'Blob') and recording(0, CASE, last, 'Blob')
    assert not recording(10, CASE, last, 'Blob')


@pytest.mark.parametrize('camera', CAMERAS[:5])
def test_cameras_take_points_to_the_pixels_of_their_images(recording, snapshots, camera):
    snapshot, view = snapshots[1][1], CAMERAS.index(camera)
    place = f'cameras/{camera}'
    turn, position, intrinsic = (np.ravel(recording(10, CASE, place, part)) for part in (
        'TransformMat3x3', 'Translation3D', 'PinholeProjection'))
    turn, intrinsic = turn.reshape(3, 3).T, intrinsic.reshape(3, 3).T  # recordings hold columns
    np.testing.assert_allclose(intrinsic, [[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], atol=1e-4)
    seen = snapshot.seen[:, view]
    in_camera = (snapshot.positions[seen] - position) @ turn
    pixels = in_camera / in_camera[:, 2:] @ intrinsic.T
    np.testing.assert_allclose(pixels[:, :2], snapshot.pixels[seen, view], atol=1e-2)
    assert recording(10, CASE, place, 'Resolution') == [[WIDTH, HEIGHT]]
    image = Image.open(io.BytesIO(np.uint8(recording(10, CASE, place, 'Blob')[0]).tobytes()))
    shown, given = (np.array(picture.convert('L'), int) for picture in (image, Image.fromarray(snapshot.images[view])))
    assert np.abs(shown - given).mean() < 5  # brightness: JPEG halves the resolution of colors
    assert camera != 'CAM_FRONT' or not np.asarray(image).any()


def test_the_timeline_in_seconds_and_the_text(recording, snapshots):
    for nanoseconds, number in ((0, 0), (499_999_999, 0), (500_000_000, 1)):
        shown = recording(nanoseconds, 'clean', 'points', 'Position3D', 'time')
        np.testing.assert_allclose(shown, snapshots[number][0].points[:, :3], rtol=1e-6)
    assert 'cameras lost: CAM_FRONT' in recording(0, CASE, 'summary', 'Text')[0]


def test_a_recording_that_fails_leaves_no_file(snapshots, tmp_path):
    pytest.importorskip('rerun', reason='rerun-sdk is not installed')
    with pytest.raises(RuntimeError, match='stop'), routing_recording(tmp_path / 'a.rrd') as record:
        record(snapshots[0][0], 0)
        raise RuntimeError('stop')
    assert not list(tmp_path.iterdir())


def test_nothing_is_recorded_where_no_file_is_named(snapshots):
    with routing_recording(None) as record:
        record(snapshots[0][0], 0)


@pytest.mark.parametrize('seed', range(5))
def test_projections_are_taken_apart(seed):
    """Of cameras anywhere, scaled by any factor, against the parts they were made of."""
    rng = np.random.default_rng(seed)
    intrinsic = np.array([[rng.uniform(200, 2000), rng.uniform(-5, 5), 400], [0, rng.uniform(200, 2000), 160],
                          [0, 0, 1]])
    turn, position = Rotation.random(random_state=seed).as_matrix(), rng.normal(0, 3, 3)  # camera to LiDAR
    lidar2img = np.eye(4)
    lidar2img[:3, :3] = intrinsic @ turn.T
    lidar2img[:3, 3] = -intrinsic @ turn.T @ position
    found = split_projection(lidar2img * rng.uniform(0.1, 10))
    for part, expected in zip(found, (intrinsic, turn, position)):
        np.testing.assert_allclose(part, expected, atol=1e-8 * np.abs(expected).max())


def test_a_mirrored_image_is_refused():
    with pytest.raises(ValueError, match='image is not mirrored'):
        split_projection(np.diag([-1.0, 1, 1, 1]))


def test_without_rerun_it_says_how_to_get_it(repo_root, tmp_path):
    """In a process that has no rerun, importing the module works and recording names the command."""
    code = """
import sys
sys.modules['rerun'] = None
from projects.mmdet3d_plugin.visualization.rerun_recording import routing_recording
with routing_recording('a.rrd'):
    pass
"""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=tmp_path, capture_output=True, text=True,
                          env={'PYTHONPATH': str(repo_root), 'OMP_NUM_THREADS': '1'})
    command = ' '.join(f"'{name}'" for name in REQUIREMENTS)
    assert done.stderr.strip().endswith(f'recordings for the rerun viewer need rerun-sdk: pip install {command}')
    assert not list(tmp_path.iterdir())
