"""Targets against loops over boxes placed by hand; losses in the presence of silent sensors and without boxes."""
import math

import numpy as np
import pytest
import torch
from mmcv import ConfigDict
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.models.builder import build_head

from projects.mmdet3d_plugin.core.bbox.box_encoding import with_gravity_center
from projects.mmdet3d_plugin.models.dense_heads.auxiliary_head import MapObjects, camera_presence, lidar_presence

PC_RANGE, CELL = [-8.0, -6.0, -5.0, 8.0, 6.0, 3.0], [2.0, 1.5]  # a map of 8 x 8 cells
IMAGE, VIEW = (64, 160), (4, 10)  # stride 16
FOCAL, NAN = 100.0, float('nan')


def make(view, **kwargs):
    torch.manual_seed(0)
    geometry = {} if view == 'Camera' else dict(pc_range=PC_RANGE, cell_size=CELL)
    head = build_head(ConfigDict(type=f'{view}AuxiliaryHead', in_channels=4, num_classes=3, feat_channels=8, **geometry,
                                 **kwargs))
    head.init_weights()
    return head


def camera(yaw, position):
    """LiDAR-to-camera matrix of a level camera that looks along ``yaw``."""
    forward, left = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([-np.sin(yaw), np.cos(yaw), 0])
    matrix = np.eye(4)
    matrix[:3, :3] = [-left, [0, 0, -1], forward]
    matrix[:3, 3] = -matrix[:3, :3] @ position
    return matrix


INTRINSIC = np.array([[FOCAL, 0, IMAGE[1] / 2, 0], [0, FOCAL, IMAGE[0] / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
CAMERAS = [camera(0.2, [0.5, 0.1, 0.3]), camera(math.pi, [-0.5, 0, 0.3])]


def metas(count=1, matrices=None):
    matrices = [INTRINSIC @ lidar2cam for lidar2cam in CAMERAS] if matrices is None else matrices
    return [dict(lidar2img=matrices, pad_shape=[(*IMAGE, 3)] * 2) for _ in range(count)]


def boxes(*rows):
    """Gravity center x y z, dx dy dz, yaw, vx, vy."""
    return torch.tensor(rows, dtype=torch.float64).view(-1, 9)


SCENE = boxes([5.0, 1.0, 0.2, 4.0, 2.0, 1.5, 0.3, 1.0, -1.0], [-7.9, -5.9, 0.0, 0.5, 0.6, 1.7, 2.0, NAN, NAN],
              [-6.0, 0.4, -0.5, 8.0, 2.5, 3.0, -1.0, 0.0, 0.0], [7.99, 5.99, -1.0, 1.0, 1.0, 1.0, -3.0, 2.0, 3.0],
              [8.1, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0])  # the last one is outside the range
LABELS = torch.tensor([0, 2, 1, 2, 0])


def features(maps, shape):
    return torch.randn(maps, 4, *shape, dtype=torch.float64)


class TestBevTargets:

    def test_objects(self):
        objects = make('BEV').map_objects([SCENE, SCENE[:1]], [LABELS, LABELS[:1]], metas(2), features(2, (8, 8)))
        expected = []
        for sample, count in enumerate((5, 1)):
            for box, label in zip(SCENE[:count].tolist(), LABELS):
                x, y, z, dx, dy, dz, yaw, vx, vy = box
                column, row = (x + 8) / 2, (y + 6) / 1.5
                if 0 <= column < 8 and 0 <= row < 8:
                    expected.append([sample, label, column, row, dx / 2, dy / 1.5, z, math.log(dx), math.log(dy),
                                     math.log(dz), math.sin(yaw), math.cos(yaw), vx, vy])
        assert len(expected) == 5
        found = torch.cat([x[:, None] if x.dim() == 1 else x for x in objects[:5]], dim=-1)
        torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-6, atol=1e-6, equal_nan=True)

    @pytest.mark.parametrize('radius', [0, 1])
    def test_cells_and_offsets(self, radius):
        """Every cell within the radius of a center, cut at the borders."""
        head = make('BEV', box_radius=radius)
        place, targets = head.box_targets(
            head.map_objects([SCENE[:0], SCENE], [LABELS[:0], LABELS], metas(2), features(2, (8, 8))), (8, 8))
        expected = {}
        for x, y, z in SCENE[:4, :3].tolist():
            column, row = (x + 8) / 2, (y + 6) / 1.5
            for r in range(int(row) - radius, int(row) + radius + 1):
                for c in range(int(column) - radius, int(column) + radius + 1):
                    if 0 <= r < 8 and 0 <= c < 8:
                        expected[64 + r * 8 + c] = [column - c - 0.5, row - r - 0.5, z]
        assert place.tolist() == sorted(expected) and len(expected) == {0: 4, 1: 26}[radius]
        torch.testing.assert_close(targets[:, :3], torch.tensor([expected[p] for p in place.tolist()]).double())


class TestCameraTargets:

    def test_objects(self):
        found = make('Camera').map_objects([SCENE[:0], SCENE], [LABELS[:0], LABELS], metas(2), features(4, VIEW))
        expected = []
        for index, (box, label) in enumerate(zip(SCENE.numpy(), LABELS)):
            for view, lidar2cam in enumerate(CAMERAS):
                x, y, depth, _ = lidar2cam @ [*box[:3], 1]
                u, v = FOCAL * x / depth + IMAGE[1] / 2, FOCAL * y / depth + IMAGE[0] / 2
                if depth <= 0 or not (0 <= u < IMAGE[1] and 0 <= v < IMAGE[0]):
                    continue
                heading = lidar2cam[:3, :3] @ [np.cos(box[6]), np.sin(box[6]), 0]
                # Seen from above, counterclockwise from the ray to the heading; the camera's x points right.
                relative = np.arctan2(-heading[0], heading[2]) - np.arctan2(-x, depth)
                size = [(box[3] * abs(np.sin(relative)) + box[4] * abs(np.cos(relative))) * FOCAL / depth / 16,
                        box[5] * FOCAL / depth / 16]
                expected.append((index, view, [2 + view, label, u / 16, v / 16, *size, np.log(depth), *np.log(box[3:6]),
                                               np.sin(relative), np.cos(relative), depth]))
        assert {view for _, view, _ in expected} == {0, 1} and len(expected) >= 4
        columns = torch.cat([x[:, None] if x.dim() == 1 else x for x in found], dim=-1)
        torch.testing.assert_close(columns, torch.tensor([row for *_, row in expected]).double(), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize('change', ['rotate', 'scale', 'translate', 'horizontal', 'vertical'])
    def test_augmenting_the_points_changes_no_target(self, change):
        """The image stays as it was, and targets are what it shows."""
        instances = LiDARInstance3DBoxes(SCENE, box_dim=9, origin=(0.5, 0.5, 0.5))
        matrix = np.eye(4)
        if change == 'rotate':
            matrix[:2, :2] = [[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]]
            instances.rotate(0.7)
        elif change == 'scale':
            matrix[:3, :3] *= 1.3
            instances.scale(1.3)
        elif change == 'translate':
            matrix[:3, 3] = [1, -2, 0.5]
            instances.translate(matrix[:3, 3])
        else:
            matrix[(1, 1) if change == 'horizontal' else (0, 0)] = -1
            instances.flip(change)
        changed = metas(1, [INTRINSIC @ lidar2cam @ np.linalg.inv(matrix) for lidar2cam in CAMERAS])
        head = make('Camera')
        plain = head.map_objects([SCENE.float()], [LABELS], metas(), features(2, VIEW))
        augmented = head.map_objects([with_gravity_center(instances)], [LABELS], changed, features(2, VIEW))
        assert len(plain.label) >= 4
        for before, after in zip(plain, augmented):
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)

    def test_a_mirrored_image_mirrors_the_targets(self):
        mirror = np.array([[-1, 0, IMAGE[1], 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        head = make('Camera')
        plain = head.map_objects([SCENE], [LABELS], metas(), features(2, VIEW))
        mirrored = head.map_objects([SCENE], [LABELS], metas(1, [mirror @ INTRINSIC @ c for c in CAMERAS]),
                                    features(2, VIEW))
        torch.testing.assert_close(mirrored.center[:, 0], VIEW[1] - plain.center[:, 0])
        torch.testing.assert_close(mirrored.code[:, 4], -plain.code[:, 4])
        assert plain.code[:, 4].abs().min() > 1e-3
        for name in ('map_index', 'label', 'size', 'depth'):
            torch.testing.assert_close(getattr(mirrored, name), getattr(plain, name))
        others = [0, 1, 2, 3, 5]
        torch.testing.assert_close(mirrored.code[:, others], plain.code[:, others])


def objects(centers, depths, codes=None):
    count = len(centers)
    codes = torch.arange(count).double()[:, None] if codes is None else codes
    return MapObjects(torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long),
                      torch.tensor(centers).double(), torch.ones(count, 2).double(), codes,
                      torch.tensor(depths).double())


class TestCellsClaimedTwice:

    @pytest.mark.parametrize('centers, depths, radius, winner', [
        ([(2.5, 2.5), (2.9, 2.9)], [9, 4], 0, 1),  # less depth
        ([(2.9, 2.9), (2.4, 2.5)], [0, 0], 0, 1),  # closest to the cell's center
        ([(2.5, 2.5), (3.1, 2.5)], [9, 4], 1, 0),  # a center of its own goes before a neighbor, however near
    ])
    def test_winner_of_a_cell(self, centers, depths, radius, winner):
        for order in (1, -1):
            codes = torch.arange(2).double()[::1][:, None]
            pair = objects(centers[::order], depths[::order], codes if order == 1 else codes.flip(0))
            place, targets = make('BEV', box_radius=radius).box_targets(pair, (6, 6))
            assert len(place) == len(place.unique())
            assert targets[place == 2 * 6 + 2, 2].tolist() == [winner]


class TestHeatmap:

    def test_gaussians(self):
        """One at the center's cell, falling with distance, wider for larger boxes, largest value wins."""
        head = make('BEV')
        found = head.draw_heatmap(head.map_objects([SCENE], [LABELS], metas(), features(1, (8, 8))),
                                  torch.zeros(1, 3, 8, 8))
        assert (found == 1).nonzero().tolist() == [[0, 0, 4, 6], [0, 1, 4, 1], [0, 2, 0, 0], [0, 2, 7, 7]]
        assert 0 < found[0, 0, 4, 5] < 1 and found[0, 0, 4, 5] > found[0, 0, 4, 4]
        wide, narrow = ((found[0, label] > 0).sum() for label in (1, 2))
        assert wide > narrow
        assert torch.equal(found[0, 2, 1, 0], found[0, 2, 0, 1])  # the border cuts, it does not shift

    def test_a_box_in_front_of_the_lens_costs_no_more_than_the_map(self):
        close = objects([(1.5, 1.5)], [1e-3])._replace(size=torch.full((1, 2), 1e7))
        assert (make('Camera').draw_heatmap(close, torch.zeros(1, 3, 4, 10))[0, 0] > 0).any()


@pytest.mark.parametrize('view, maps, shape', [('BEV', 2, (8, 8)), ('Camera', 4, VIEW)])
class TestLoss:

    def losses(self, head, maps, shape, scenes=(SCENE, SCENE[:2]), present=None, seed=0):
        torch.manual_seed(seed)
        x = torch.randn(maps, 4, *shape)
        present = torch.ones(maps, dtype=torch.bool) if present is None else present
        return head.loss(x, [scene.float() for scene in scenes], [LABELS[:len(scene)] for scene in scenes], metas(2),
                         present)

    def test_equals_a_loop(self, view, maps, shape):
        head = make(view, code_weights=[0.5] * (10 if view == 'BEV' else 8)).eval()
        found = self.losses(head, maps, shape)
        torch.manual_seed(0)
        logits, codes, _ = head(torch.randn(maps, 4, *shape))
        boxes_, labels = [SCENE.float(), SCENE[:2].float()], [LABELS, LABELS[:2]]
        seen = head.map_objects(boxes_, labels, metas(2), logits)
        heat, probability = head.draw_heatmap(seen, logits), logits.sigmoid()
        focal = 0.0
        for p, t in zip(probability.flatten(), heat.flatten()):
            focal -= (1 - p)**2 * p.log() if t == 1 else (1 - t)**4 * p**2 * (1 - p).log()
        torch.testing.assert_close(found['heatmap'], focal / (heat == 1).sum(), rtol=1e-4, atol=1e-5)
        place, targets = head.box_targets(seen, shape)
        total = 0.0
        for index, target in zip(place, targets):
            sample, cell = divmod(int(index), shape[0] * shape[1])
            code = codes[sample, :, cell // shape[1], cell % shape[1]]
            total += sum(0.25 * 0.5 * (c - t).abs() for c, t in zip(code, target) if torch.isfinite(t))
        torch.testing.assert_close(found['box'], total / len(place))

    def test_headings_equal_a_loop(self, view, maps, shape):
        """Cross entropy of the bin that holds the heading, counted by hand from 0 to 2 pi."""
        head, bins = make(view, heading_bins=12).eval(), 12
        found = self.losses(head, maps, shape)
        torch.manual_seed(0)
        logits, _, headings = head(torch.randn(maps, 4, *shape))
        place, targets = head.box_targets(
            head.map_objects([SCENE.float(), SCENE[:2].float()], [LABELS, LABELS[:2]], metas(2), logits), shape)
        sin = [name.split()[0] for name in head.code_names].index('sin')
        total, used = 0.0, set()
        for index, target in zip(place, targets):
            sample, cell = divmod(int(index), shape[0] * shape[1])
            scores = headings[sample, :, cell // shape[1], cell % shape[1]]
            degrees = math.degrees(math.atan2(target[sin], target[sin + 1])) % 360
            own = int(degrees // (360 / bins))
            used.add(own)
            total += 0.5 * (scores.exp().sum().log() - scores[own])
        torch.testing.assert_close(found['heading'], total / len(place))
        assert len(used) > 2

    @pytest.mark.parametrize('scenes, present', [((SCENE[:0], SCENE[:0]), True), ((SCENE, SCENE), False)])
    def test_gradients_without_targets(self, view, maps, shape, scenes, present):
        """Every parameter takes part, as distributed training expects, and nothing is NaN."""
        head = make(view, heading_bins=4)
        losses = self.losses(head, maps, shape, scenes, torch.full((maps, ), present))
        assert losses['box'] == losses['heading'] == 0 and (losses['heatmap'] > 0) == present
        sum(losses.values()).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())

    def test_unknown_velocities_give_finite_gradients(self, view, maps, shape):
        head = make(view)
        sum(self.losses(head, maps, shape, (SCENE[1:2], SCENE[1:2])).values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in head.parameters())

    def test_a_silent_map_takes_no_part(self, view, maps, shape):
        head = make(view).eval()
        present = torch.arange(maps) < maps // 2  # the first sample
        found = self.losses(head, maps, shape, (SCENE, SCENE[1:3]), present)
        torch.manual_seed(0)
        x = torch.randn(maps, 4, *shape)[:maps // 2]
        alone = head.loss(x, [SCENE.float()], [LABELS], metas(1), present[:maps // 2])
        for name in found:
            torch.testing.assert_close(found[name], alone[name])

    def test_start_predicts_few_objects(self, view, maps, shape):
        head = make(view)
        logits, _, _ = head(torch.zeros(maps, 4, *shape))
        torch.testing.assert_close(logits, torch.full_like(logits, math.log(0.1 / 0.9)))


def test_presence():
    cloud = torch.randn(5, 5)
    silenced = torch.zeros(5, 5)
    silenced[:, :3] = torch.tensor([0.3, -0.2, 0.1])  # ModalMask3D's, after a global translation
    assert lidar_presence([cloud, cloud[:0], silenced, cloud[:2]]).tolist() == [True, False, False, True]
    img = torch.randn(2, 3, 3, 8, 8)
    img[0, 1] = 0
    img[1, 2] = torch.tensor([-1.8, -2.0, -2.1])[:, None, None]  # zeros, normalized, ..
    img[1, 2, :, 6:] = 0  # .. and padded
    assert camera_presence(img).tolist() == [[True, False, True], [True, True, False]]


def test_bad_code_weights():
    with pytest.raises(ValueError, match='code_weights must hold 8'):
        make('Camera', code_weights=[1.0] * 10)


@pytest.mark.parametrize('bins', [1, 2, -1])
def test_bad_bins(bins):
    with pytest.raises(ValueError, match=f'heading_bins must be 0 or at least 3, got {bins}'):
        make('BEV', heading_bins=bins)
