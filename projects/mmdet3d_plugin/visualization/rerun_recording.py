"""Recordings for the rerun viewer (https://rerun.io): what sensors, detector and router say, in 3D and over time.

rerun-sdk is optional and imported when a recording begins.
"""
from contextlib import contextmanager

import numpy as np
from matplotlib.colors import to_rgba
from scipy.linalg import rq
from scipy.spatial.transform import Rotation

from ..utils.atomic_file import atomic_path
from .frame_axes import BOX_STYLES, POINT_COLOR, camera_grid, detection_labels
from .preference_colors import PREFERENCE_MAP, signed_norm
from .routing_pictures import caption

# What goes together with the numpy that the project pins: rerun-sdk 0.23.2 and pyarrow 24 ask for numpy 2.
REQUIREMENTS = 'rerun-sdk==0.23.1', 'pyarrow<24'
_JPEG_QUALITY = 90


@contextmanager
def routing_recording(path):
    """Context manager: record snapshots into a file that `rerun FILE` opens.

    Every case is a part of its own, with points, truth, detections, queries in the colors of their preferences, cameras
    and a text, in the frame of the LiDAR; in the viewer a tab each, with a 3D view beside the images.

    Args:
        path (str | Path | None): `.rrd` file, which appears whole when the block ends without error; None records
            nothing.

    Yields:
        Callable: takes a RoutingSnapshot, `frame` (int), its number on the timeline 'frame', and `seconds` (float),
        its place on the timeline 'time' if it is to have one.

    Raises:
        ModuleNotFoundError: rerun-sdk is not installed; says how to install it.
    """
    if path is None:
        yield lambda snapshot, frame, seconds=None: None
        return
    rerun = import_rerun()
    cameras = {}
    with atomic_path(path) as temporary:
        stream = rerun.RecordingStream('cmt-aqr')
        stream.save(temporary)
        stream.log('/', rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)

        def record(snapshot, frame, seconds=None):
            stream.set_time('frame', sequence=frame)
            if seconds is not None:
                stream.set_time('time', duration=seconds)
            known = cameras.setdefault(str(snapshot.case), [])
            for gone in set(known) - set(snapshot.camera_names):
                stream.log([str(snapshot.case), 'cameras', gone], rerun.Clear(recursive=False))
            known += [name for name in snapshot.camera_names if name not in known]
            _log_snapshot(rerun, stream, snapshot)

        try:
            yield record
            stream.send_blueprint(_layout(rerun, cameras))
        finally:
            stream.flush(blocking=True)
            stream.disconnect()


def import_rerun():
    """The module `rerun`.

    Raises:
        ModuleNotFoundError: it is not installed; says how to install it.
    """
    try:
        import rerun
        import rerun.blueprint  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('recordings for the rerun viewer need rerun-sdk: pip install '
                                  + ' '.join(f"'{name}'" for name in REQUIREMENTS), name=error.name) from error
    return rerun


def split_projection(lidar2img):
    """Take a projection apart into camera and place (RQ decomposition; Hartley and Zisserman, "Multiple View Geometry
    in Computer Vision", 6.2.4).

    Args:
        lidar2img (np.ndarray): (4, 4) from LiDAR to (u * depth, v * depth, depth) up to a factor > 0.

    Returns:
        tuple[np.ndarray, np.ndarray, np.ndarray]: intrinsics (3, 3), upper triangular, their last entry 1; rotation
        (3, 3) from camera to LiDAR; position (3,) of the camera in the LiDAR's frame, m.

    Raises:
        ValueError: a mirrored or flat image, which no pinhole camera takes.
    """
    matrix, shift = np.asarray(lidar2img, dtype=np.float64)[:3, :3], np.asarray(lidar2img, dtype=np.float64)[:3, 3]
    if np.linalg.det(matrix) <= 0:
        raise ValueError(f'lidar2img must be of a camera whose image is not mirrored, got {np.round(lidar2img, 3)}')
    intrinsic, rotation = rq(matrix)
    signs = np.sign(np.diag(intrinsic))
    intrinsic, rotation = intrinsic * signs, signs[:, None] * rotation
    return intrinsic / intrinsic[2, 2], rotation.T, -np.linalg.solve(matrix, shift)


def _log_snapshot(rerun, stream, snapshot):
    case = str(snapshot.case)
    stream.log([case, 'points'], rerun.Points3D(snapshot.points[:, :3], colors=to_rgba(POINT_COLOR), radii=0.04))
    stream.log([case, 'queries'], rerun.Points3D(
        snapshot.positions, colors=PREFERENCE_MAP(signed_norm(1)(snapshot.preference)), radii=_dots(rerun, 4),
        labels=[f'query {number}, {snapshot.class_names[label]} {score:.2f}, preference {preference:+.2f}'
                for number, (label, score, preference) in enumerate(zip(
                    snapshot.labels, snapshot.scores, snapshot.preference))], show_labels=False))
    labels = detection_labels(snapshot.detections, snapshot.detection_names)
    for name, boxes, texts in (('ground truth', snapshot.ground_truth, None),
                               ('detections', snapshot.detections['boxes_3d'], labels)):
        _log_boxes(rerun, stream, [case, name], boxes, to_rgba(BOX_STYLES[name]['colors']), texts)
    for name, image, matrix in zip(snapshot.camera_names, snapshot.images, snapshot.lidar2img):
        intrinsic, rotation, position = split_projection(matrix)
        height, width = image.shape[:2]
        stream.log([case, 'cameras', name], rerun.Transform3D(translation=position, mat3x3=rotation),
                   rerun.Pinhole(image_from_camera=intrinsic, resolution=[width, height], image_plane_distance=2.5),
                   rerun.Image(image).compress(jpeg_quality=_JPEG_QUALITY))
    stream.log([case, 'summary'], rerun.TextDocument(caption(snapshot, snapshot.regions(), width=100)))


def _log_boxes(rerun, stream, place, boxes, color, labels):
    """Boxes, and an arrow from the center of each to its front; none where there is no annotation, so that those of the
    sample before do not stay.
    """
    centers, sizes, yaw = (np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0)) if boxes is None else (
        part.cpu().numpy() for part in (boxes.gravity_center, boxes.dims, boxes.yaw))
    turns = Rotation.from_euler('z', yaw[:, None])
    stream.log(place, rerun.Boxes3D(centers=centers, sizes=sizes, quaternions=turns.as_quat(), colors=color,
                                    labels=labels, radii=_dots(rerun, 1)))
    fronts = turns.apply(sizes * [0.5, 0, 0])
    stream.log([*place, 'front'], rerun.Arrows3D(origins=centers, vectors=fronts, colors=color, radii=_dots(rerun, 1)))


def _dots(rerun, size):
    """A radius on the screen, however far away: near the cameras, one in meters would hide the images."""
    return rerun.components.Radius.ui_points(size)


def _layout(rerun, cameras):
    """A tab for each case: the scene in 3D, beside it the images with what projects into them, and the text."""
    blueprint = rerun.blueprint
    tabs = []
    for case, names in cameras.items():
        root, path = f'/{rerun.new_entity_path([case])}', rerun.new_entity_path
        drawn = [f'+ {root}/{path([part])}' for part in ('ground truth', 'detections', 'queries')]
        images = [blueprint.Spatial2DView(origin=f'/{path([case, "cameras", name])}', name=name,
                                          contents=['+ $origin', *drawn])
                  for name in (names[view] for view in camera_grid(names)[0])]
        scene = blueprint.Vertical(
            blueprint.Spatial3DView(origin=root, name='scene'),
            blueprint.TextDocumentView(origin=f'{root}/summary', name='summary'), row_shares=[5, 1])
        tabs.append(blueprint.Horizontal(scene, blueprint.Grid(*images, grid_columns=min(3, len(names))), name=case))
    return blueprint.Blueprint(blueprint.Tabs(*tabs), collapse_panels=True)
