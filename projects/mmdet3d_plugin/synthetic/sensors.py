"""Calibration of the synthetic vehicle (close to nuScenes') and what its LiDAR and cameras measure."""
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from .ray_casting import cast_rays
from .world import yaw_matrix

LIDAR_ELEVATIONS = np.deg2rad(np.linspace(-30.67, 10.67, 32))  # by ring index
LIDAR_RANGE = 70.0    # m
_CAMERA_TO_EGO = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # x right, y down, z forward
# name: position in the ego frame, yaw in degrees, focal length in pixels of a 1600 x 900 image
_CAMERAS = dict(
    CAM_FRONT=((1.70, 0.02, 1.51), 0.0, 1266.0),
    CAM_FRONT_RIGHT=((1.55, -0.49, 1.50), -55.0, 1260.0),
    CAM_FRONT_LEFT=((1.52, 0.49, 1.51), 55.0, 1272.0),
    CAM_BACK=((0.03, 0.00, 1.57), 180.0, 809.0),
    CAM_BACK_LEFT=((1.03, 0.48, 1.59), 110.0, 1257.0),
    CAM_BACK_RIGHT=((1.01, -0.48, 1.56), -110.0, 1259.0))
CAMERA_NAMES = tuple(_CAMERAS)


@dataclass
class Mount:
    """Where a sensor sits: position (3,) in m and rotation (3, 3), sensor to parent frame."""

    position: np.ndarray
    rotation: np.ndarray

    def __matmul__(self, other):
        """The mount of ``other``, given in this frame, in the parent frame."""
        return Mount(self.position + self.rotation @ other.position, self.rotation @ other.rotation)

    def to_local(self, points):
        """Points (..., 3) of the parent frame in the sensor's."""
        return (points - self.position) @ self.rotation


@dataclass
class Camera:
    """A pinhole camera: mount on the ego vehicle, intrinsics (3, 3), image width and height in pixels."""

    mount: Mount
    intrinsic: np.ndarray
    width: int
    height: int

    def directions(self):
        """(H, W, 3) through the pixels' centers, in the camera's frame, with z = 1: distances are depths."""
        u, v = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        pixels = np.stack([u, v, np.ones_like(u)], axis=-1)
        return pixels @ np.linalg.inv(self.intrinsic).T


def lidar_mount():
    """LIDAR_TOP: x right, y forward, z up."""
    return Mount(np.array([0.94, 0.0, 1.84]), yaw_matrix(-np.pi / 2))


def draw_cameras(rng, width, height):
    """The six cameras of a vehicle, each a little displaced and tilted, as in a real car: dict name -> Camera."""
    cameras = {}
    for name, (position, yaw, focal) in _CAMERAS.items():
        position = np.array(position) + rng.uniform(-0.02, 0.02, 3)
        tilt = Rotation.from_rotvec(rng.uniform(-0.5, 0.5, 3), degrees=True).as_matrix()
        rotation = yaw_matrix(np.deg2rad(yaw)) @ _CAMERA_TO_EGO @ tilt
        scale = width / 1600
        intrinsic = np.array([[focal * scale, 0, 816 * scale], [0, focal * scale, 491 * height / 900], [0, 0, 1.0]])
        cameras[name] = Camera(Mount(position, rotation), intrinsic, width, height)
    return cameras


def scan(world, boxes, mount, rng, azimuths):
    """One LiDAR revolution, motion-compensated as nuScenes' are.

    Args:
        world (World): gives the reflectivities.
        boxes (Boxes): parts of the world's actors, global frame.
        mount (Mount): the LiDAR in the global frame.
        rng (numpy.random.Generator): range noise (2 cm) and lost returns (5 %).
        azimuths (int): steps per revolution.

    Returns:
        ndarray: (N, 5) float32: x, y, z in the LiDAR's frame (m), intensity in [0, 255], ring index.
    """
    azimuth = 2 * np.pi * np.arange(azimuths) / azimuths - np.pi
    cos_elevation, sin_elevation = np.cos(LIDAR_ELEVATIONS)[:, None], np.sin(LIDAR_ELEVATIONS)[:, None]
    local = np.stack(np.broadcast_arrays(cos_elevation * np.cos(azimuth), cos_elevation * np.sin(azimuth),
                                         sin_elevation), axis=-1)  # (32, A, 3)
    directions = (local @ mount.rotation.T).astype(np.float32)
    hits = cast_rays(mount.position, directions, boxes, lidar_windows(mount, boxes, azimuths))
    distance = np.minimum(hits.distance, _ground_distance(mount.position, directions))
    reflectivity = np.array([part.intensity * (0.4 + 0.6 * actor.color.mean()) for part, actor in world.parts] + [6.0])
    on_box = hits.distance <= distance
    intensity = reflectivity[np.where(on_box, hits.box, -1)] * rng.uniform(0.7, 1.3, distance.shape)
    measured = distance + rng.normal(0, 0.02, distance.shape)
    kept = (distance < LIDAR_RANGE) & (rng.random(distance.shape) > 0.05)
    rings = np.broadcast_to(np.arange(len(LIDAR_ELEVATIONS))[:, None], distance.shape)
    points = np.where(kept, measured, 0)[..., None] * local
    columns = [points, np.clip(intensity, 0, 255)[..., None], rings[..., None]]
    return np.concatenate(columns, axis=-1)[kept].astype(np.float32)


def lidar_windows(mount, boxes, azimuths):
    """Rings and azimuth steps that may hit each box, from the cone around its circumscribed sphere.

    Args:
        mount (Mount): the LiDAR in the frame of the boxes.
        boxes (Boxes): N.
        azimuths (int): steps per revolution.

    Returns:
        list[tuple]: N windows, see `cast_rays`.
    """
    centers, radii = mount.to_local(boxes.centers), boxes.radii
    distances = np.linalg.norm(centers, axis=1)
    windows = []
    for center, radius, distance in zip(centers, radii, distances):
        ground_distance = np.hypot(*center[:2])
        if ground_distance <= radius:
            windows.append((np.arange(len(LIDAR_ELEVATIONS)), np.arange(azimuths)))
            continue
        half = np.arcsin(radius / ground_distance)
        first, last = (np.arctan2(center[1], center[0]) + np.array([-half, half]) + np.pi) * azimuths / (2 * np.pi)
        columns = np.arange(np.floor(first), np.ceil(last) + 1).astype(int) % azimuths
        elevation, half = np.arcsin(center[2] / distance), np.arcsin(min(1.0, radius / distance))
        rows = np.flatnonzero(np.abs(LIDAR_ELEVATIONS - elevation) <= half)
        windows.append((rows, np.unique(columns)))
    return windows


def photograph(world, boxes, camera, mount, rng):
    """One image and how much of each actor it shows.

    Args:
        world (World): gives colors and light.
        boxes (Boxes): parts of the world's actors, global frame.
        camera (Camera): intrinsics and size.
        mount (Mount): the camera in the global frame.
        rng (numpy.random.Generator): noise and exposure.

    Returns:
        tuple[ndarray, dict, dict]: image (H, W, 3) uint8 RGB; per actor the pixels that show it, and those that would
        if nothing stood in front of it.
    """
    directions = (camera.directions() @ mount.rotation.T).astype(np.float32)
    hits = cast_rays(mount.position, directions, boxes, camera_windows(camera, mount, boxes))
    depth = np.minimum(hits.distance, _ground_distance(mount.position, directions))
    on_box = np.isfinite(hits.distance) & (hits.distance <= depth)
    on_ground = np.isfinite(depth) & ~on_box

    color = np.empty((*depth.shape, 3), dtype=np.float32)
    sky_height = np.clip(directions[..., 2], 0, 0.5)[..., None]
    light = world.light
    color[:] = (0.75 - 0.4 * sky_height) * light.tint * np.array([0.9, 0.95, 1.0]) * (light.ambient + 0.4)
    points = mount.position + np.where(np.isfinite(depth), depth, 0)[..., None] * directions
    color[on_ground] = _ground_color(world, points[on_ground])
    color[on_box] = _surface_color(world, boxes, points[on_box], hits.box[on_box], hits.axis[on_box], mount.position)
    haze = (1 - np.exp(-light.fog * np.where(np.isfinite(depth), depth, 100)))[..., None]
    color = color * (1 - haze) + 0.6 * light.tint * (light.ambient + 0.2) * haze
    image = 255 * color * rng.uniform(0.85, 1.15) + rng.normal(0, light.noise, color.shape)

    owners, counts = np.unique(boxes.owners[hits.box[on_box]], return_counts=True)
    return np.clip(image, 0, 255).astype(np.uint8), dict(zip(owners, counts)), hits.alone


def camera_windows(camera, mount, boxes, near=0.1):
    """Rows and columns of the image that each box's corners span; all of them where it reaches behind the camera.

    Args:
        camera (Camera): intrinsics and size.
        mount (Mount): the camera in the frame of the boxes.
        boxes (Boxes): N.
        near (float): depth in m below which a corner counts as behind the camera.

    Returns:
        list[tuple | None]: N windows, see `cast_rays`; None for a box that lies behind the camera as a whole.
    """
    corners = mount.to_local(boxes.corners())  # (N, 8, 3)
    windows = []
    for corner in corners:
        if (corner[:, 2] < near).all():
            windows.append(None)
            continue
        if (corner[:, 2] < near).any():
            windows.append((np.arange(camera.height), np.arange(camera.width)))
            continue
        pixels = corner @ camera.intrinsic.T
        u, v = pixels[:, 0] / pixels[:, 2], pixels[:, 1] / pixels[:, 2]
        windows.append((_between(v, camera.height), _between(u, camera.width)))
    return windows


def _between(values, size):
    return np.arange(max(0, int(np.floor(values.min()))), min(size, int(np.ceil(values.max())) + 1))


def _ground_distance(origin, directions):
    """(H, W) distance to the plane z = 0, inf above the horizon."""
    with np.errstate(divide='ignore'):
        distance = -origin[2] / directions[..., 2]
    return np.where(directions[..., 2] < 0, distance, np.inf).astype(np.float32)


def _ground_color(world, points):
    """Asphalt with patches and painted lines, (N, 3)."""
    light = world.light
    fine = _noise(np.floor(points[:, :2] / 0.25), world.ground_salt)
    coarse = _noise(np.floor(points[:, :2] / 3.0), world.ground_salt + 1)
    tone = world.ground_tone * (0.8 + 0.15 * fine + 0.25 * coarse)
    x, y = points[:, 0], points[:, 1]
    is_line = ((np.abs(x % 7.0) < 0.15) & (y % 4.0 < 2.5)) | (np.abs(y % 13.0) < 0.15)
    tone = np.where(is_line, 0.8, tone)
    return (tone * (light.ambient + light.strength * light.sun[2]))[:, None] * light.tint


def _surface_color(world, boxes, points, box, axis, eye):
    """Shaded and textured colors of points on boxes, (N, 3)."""
    light = world.light
    base = np.array([actor.color if part.color is None else part.color for part, actor in world.parts])[box]
    salts = np.array([actor.salt for _, actor in world.parts])[box]
    rotations = boxes.rotations[box]  # (N, 3, 3)
    normals = np.take_along_axis(rotations, axis[:, None, None].astype(int), axis=2)[..., 0]  # column of the axis
    facing = np.sign(((eye - points) * normals).sum(axis=1))
    diffuse = np.clip((normals * facing[:, None]) @ light.sun, 0, None)
    local = np.einsum('nji,nj->ni', rotations, points - boxes.centers[box])
    cells = np.floor(local / 0.4)
    texture = 0.85 + 0.3 * _noise(cells, salts)
    shade = texture * (light.ambient + light.strength * diffuse)
    return base * shade[:, None] * light.tint


def _noise(cells, salt):
    """Values in [0, 1] that look random, a function of integer cells (N, D) and salt."""
    value = np.asarray(salt, dtype=np.uint64)
    for column in cells.T:
        value = (value ^ column.astype(np.int64).astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
    return ((value >> np.uint64(40)) & np.uint64(0xFFFF)).astype(np.float64) / 0xFFFF
