"""Matrices between the LiDAR frame, the camera frames and their images; all float64.

Names and directions: ``lidar2cam`` (4, 4) takes homogeneous LiDAR coordinates (x, y, z, 1) in meters to camera
coordinates, ``cam_intrinsic`` (4, 4) takes these to (u * depth, v * depth, depth, 1) with u, v in pixels, and
``lidar2img = cam_intrinsic @ lidar2cam``. Pixel coordinates are continuous: the pixel in row i, column j covers
[j, j + 1) x [i, i + 1).
"""
import numpy as np

ROTATION_ERROR = 0.01  # that an entry of a rotation may have: files with few digits
_SHAPES = dict(rotation=[(3, 3)], translation=[(3, )], intrinsic=[(3, 3), (3, 4), (4, 4)], pose=[(3, 4), (4, 4)])


def calibration_problem(kind, matrices):
    """Say what is wrong with some matrices, all at once, since info files have very many.

    Args:
        kind (str): 'rotation', 'translation', 'intrinsic', or 'pose', a rotation beside a translation.
        matrices (Sequence[array]): N of them.

    Returns:
        str: the end of a sentence, '' where nothing is wrong.
    """
    try:
        stacked = np.array(matrices, dtype=np.float64)
    except (TypeError, ValueError):
        return 'must be numbers, in one shape'
    if not np.isfinite(stacked).all():
        return 'is not finite'
    if stacked.shape[1:] not in _SHAPES[kind]:
        return f'must have shape {" or ".join(map(str, _SHAPES[kind]))}, has {stacked.shape[1:]}'
    if kind == 'intrinsic':
        return '' if (stacked[:, [0, 1], [0, 1]] > 0).all() else 'must have focal lengths above 0'
    if kind == 'translation':
        return ''
    rotations = stacked[:, :3, :3]
    error = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max()
    return '' if error < ROTATION_ERROR and (np.linalg.det(rotations) > 0).all() else 'is no rotation'


def as_homogeneous(matrix):
    """Put a (3, 3), (3, 4) or (4, 4) matrix into the upper left corner of a new (4, 4) identity.

    Raises:
        ValueError: if the matrix has another shape.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape not in ((3, 3), (3, 4), (4, 4)):
        raise ValueError(f'matrix must have shape (3, 3), (3, 4) or (4, 4), got {matrix.shape}')
    padded = np.eye(4)
    padded[:matrix.shape[0], :matrix.shape[1]] = matrix
    return padded


def camera_matrices(lidar2cam, cam_intrinsic):
    """Collect the calibration of V cameras under the keys that the pipelines read.

    Args:
        lidar2cam (Sequence[array]): V matrices that :func:`as_homogeneous` accepts.
        cam_intrinsic (Sequence[array]): V intrinsics that :func:`as_homogeneous` accepts.

    Returns:
        dict[str, list[np.ndarray]]: ``lidar2img``, ``lidar2cam`` and ``cam_intrinsic``, V (4, 4) arrays each.
    """
    lidar2cam = [as_homogeneous(m) for m in lidar2cam]
    cam_intrinsic = [as_homogeneous(m) for m in cam_intrinsic]
    lidar2img = [intrinsic @ extrinsic for intrinsic, extrinsic in zip(cam_intrinsic, lidar2cam)]
    return dict(lidar2img=lidar2img, lidar2cam=lidar2cam, cam_intrinsic=cam_intrinsic)


def project(points, lidar2img):
    """Project LiDAR points into one image.

    Args:
        points (np.ndarray): (..., 3), meters.
        lidar2img (np.ndarray): (4, 4).

    Returns:
        tuple[np.ndarray, np.ndarray]: pixels (u, v) (..., 2), NaN for points that are not in front of the camera, and
        depth (...), meters.
    """
    lidar2img = np.asarray(lidar2img, dtype=np.float64)
    scaled = np.asarray(points, dtype=np.float64) @ lidar2img[:3, :3].T + lidar2img[:3, 3]
    depth = scaled[..., 2]
    pixels = np.full(scaled.shape[:-1] + (2, ), np.nan)
    np.divide(scaled[..., :2], depth[..., None], out=pixels, where=(depth > 0)[..., None])
    return pixels, depth


def follow_lidar_motion(results, motion):
    """Keep calibration and failure record correct after the scene was moved in the LiDAR frame by ``motion`` (4, 4).

    A moved point must project to where it projected before, so ``lidar2img`` and ``lidar2cam`` first undo the motion.
    Both lists are replaced, never written to; a sample without cameras has neither.
    """
    if 'failure' in results:
        results['failure'] = results['failure'].moved(motion)
    undo = np.linalg.inv(np.asarray(motion, dtype=np.float64))
    for key in ('lidar2img', 'lidar2cam'):
        if key in results:
            results[key] = [np.asarray(matrix, dtype=np.float64) @ undo for matrix in results[key]]
