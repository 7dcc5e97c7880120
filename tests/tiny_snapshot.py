"""A routing snapshot of random queries before six cameras in a ring, to test pictures of it."""
import numpy as np
import torch
from mmdet3d.core.bbox import LiDARInstance3DBoxes

from projects.mmdet3d_plugin.apis.routing_snapshot import RoutingSnapshot
from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.datasets.sensor_failures import FailureCase
from projects.mmdet3d_plugin.models.utils.attention_bias_generator import AttentionBiasGenerator
from projects.mmdet3d_plugin.models.utils.token_layout import TokenLayout

CAMERAS = ('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT')
ANGLES = dict(zip(CAMERAS, (0, 55, -55, 180, -110, 110)))  # degrees to the right of forward
RANGE = [-28.8, -28.8, -3.0, 28.8, 28.8, 3.0]
HEIGHT, WIDTH = 96, 160
FOCAL = 100.0
BEV, CELL = (6, 7), (8.0, 8.5)  # the map is smaller than the range along y, larger along x
VIEW = (6, 3, 5)


def camera_matrix(name):
    """(4, 4) LiDAR to pixels of a camera at the origin; u to the right, v down."""
    angle = np.deg2rad(ANGLES[name])
    to_camera = np.array([[np.cos(angle), -np.sin(angle), 0], [0, 0, -1], [np.sin(angle), np.cos(angle), 0]])
    intrinsic = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = intrinsic @ to_camera
    return matrix


def project(point, name):
    """(u, v) of a point (3,) in a camera and whether it is seen."""
    u, v, depth = camera_matrix(name)[:3, :3] @ point
    pixel = np.array([u, v]) / (depth or 1e-9)
    return pixel, bool(depth > 0 and 0 <= pixel[0] < WIDTH and 0 <= pixel[1] < HEIGHT)


def make_snapshot(case='clean', seed=0, queries=40, local=False, neutral=False, failure=None, alpha=5.0, looks=None,
                  per_view=False):
    """A snapshot whose parts agree with each other; the failure is a FailureRecord of the case."""
    rng = np.random.default_rng(seed)
    failure = failure or FailureRecord(case, views_lost=np.zeros(6, dtype=bool))
    low, high = np.array(RANGE[:3]), np.array(RANGE[3:])
    positions = rng.uniform(low, high, (queries, 3)).astype(np.float32)
    projected = [[project(position, name) for name in CAMERAS] for position in positions]
    pixels = np.array([[pixel for pixel, _ in row] for row in projected])
    seen = np.array([[is_seen for _, is_seen in row] for row in projected])
    lidar, camera = np.full((2, queries), 0.5) if neutral else rng.uniform(0, 1, (2, queries))
    of_views = np.broadcast_to(camera[:, None], seen.shape)
    if per_view:
        of_views = np.where(seen, rng.uniform(0, 1, seen.shape), 0.5)
        camera = np.where(seen.any(axis=1), np.where(seen, of_views, -1).max(axis=1), 0.5)

    column, row = (np.floor((positions[:, axis] - low[axis]) / CELL[axis]).astype(int) for axis in (0, 1))
    inside = (column < BEV[1]) & (row < BEV[0])
    cells = np.stack([pixels[..., 1] * VIEW[1] / HEIGHT, pixels[..., 0] * VIEW[2] / WIDTH], axis=-1)
    cells = np.where(seen[..., None], np.floor(cells), -1).astype(int)
    bias = AttentionBiasGenerator(bias_strength=alpha, use_local_bias=local, local_window_size=5).compact(
        torch.as_tensor(lidar)[None], torch.as_tensor(camera)[None],
        torch.as_tensor(np.where(inside, row * BEV[1] + column, -1))[None], torch.as_tensor(cells)[None],
        torch.as_tensor(seen)[None], BEV, VIEW)
    scores = rng.normal(0, 2, (queries, bias.num_tokens))

    def attention(numbers):
        raw = torch.as_tensor(scores[list(numbers)])
        return (raw + bias.dense()[0, list(numbers)]).softmax(-1).numpy(), raw.softmax(-1).numpy()

    boxes = LiDARInstance3DBoxes(torch.tensor([[0., 15, -1, 4, 2, 1.5, 0.3], [-12., 5, -1, 4, 2, 1.5, 1]]), box_dim=7)
    views_lost = np.zeros(6, dtype=bool) if failure.views_lost is None else failure.views_lost
    images = rng.integers(0, 256, (len(CAMERAS), HEIGHT, WIDTH, 3), dtype=np.uint8)
    images[views_lost] = 0
    return RoutingSnapshot(
        case=FailureCase.parse(case), failure=failure, points=rng.uniform(-28, 28, (200, 5)), images=list(images),
        lidar2img=np.stack([camera_matrix(name) for name in CAMERAS]), camera_names=list(CAMERAS), ground_truth=boxes,
        detections=dict(boxes_3d=boxes[:1], scores_3d=torch.tensor([0.7]), labels_3d=torch.tensor([0])),
        detection_names=['car', 'pedestrian'],
        positions=positions, pixels=pixels, seen=seen, lidar_weights=lidar, camera_weights=camera,
        view_weights=of_views,
        lidar_lost=failure.lidar_lost(torch.as_tensor(positions)).numpy(),
        cameras_lost=failure.cameras_lost(torch.as_tensor(seen)).numpy(), looks=looks,
        scores=rng.uniform(0, 1, queries), labels=rng.integers(0, 2, queries),
        centers=positions + 1, class_names=['car', 'pedestrian'],
        bias=bias, attention=attention, layer=2, layout=TokenLayout(BEV, VIEW), pc_range=RANGE, bev_cell_size=CELL)
