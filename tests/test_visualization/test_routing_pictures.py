import itertools

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.contour import QuadContourSet
from matplotlib.text import Text

from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.visualization.bias_report import describe_query
from projects.mmdet3d_plugin.visualization.query_pictures import query_figure
from projects.mmdet3d_plugin.visualization.routing_pictures import (
    draw_histograms,
    draw_routing,
    draw_routing_cameras,
    histograms_figure,
    lost_places,
    routing_cameras_figure,
    routing_figure,
)
from tests.tiny_snapshot import CAMERAS, HEIGHT, WIDTH, make_snapshot, project

LOST_VIEWS = np.isin(CAMERAS, ['CAM_FRONT', 'CAM_FRONT_LEFT'])
LONG_CASE = 'view_drop:CAM_FRONT,CAM_FRONT_LEFT+fov:60+object_failure:0.5'
FAILURE = FailureRecord(LONG_CASE, field_of_view=60.0, views_lost=LOST_VIEWS,
                        lost_boxes=np.array([[-2.0, 12.0, 0.0, 6.0, 3.0, 2.0, 0.4]]))


@pytest.fixture(scope='module')
def clean():
    return make_snapshot()


@pytest.fixture(scope='module')
def failed():
    return make_snapshot(LONG_CASE, failure=FAILURE)


def artist(axes, label):
    found, = (child for child in axes.get_children() if child.get_label() == label)
    return found


def color_of(preference):
    """Purple for -1, white for 0, green for 1: PRGn without a tenth at either end."""
    return np.array(colormaps['PRGn'](0.1 + 0.8 * (preference + 1) / 2))


def dots(axes):
    """Positions (q, 2) and colors (q, 4) of the queries drawn."""
    collection = artist(axes, 'queries (color: preference)')
    collection.update_scalarmappable()
    return np.asarray(collection.get_offsets()), collection.get_facecolors()


def assert_dots(axes, places, preferences):
    drawn, colors = dots(axes)
    assert len(drawn) == len(places)
    for place, preference in zip(places, preferences):
        match = np.abs(drawn - place).max(axis=1) < 1e-4
        assert match.sum() == 1
        np.testing.assert_allclose(colors[match][0], color_of(preference), atol=0.03)


def test_every_query_lies_at_its_place_in_the_color_of_its_preference(clean):
    figure = routing_figure([clean], queries=[3, 5])
    axes = figure.axes[0]
    assert_dots(axes, clean.positions[:, :2], clean.lidar_weights - clean.camera_weights)
    strength = np.abs(dots(axes)[1] - color_of(0)).max(axis=1)
    assert strength[:10].max() < strength[-10:].min()  # the strongest on top
    rings = artist(axes, 'ringed queries')
    np.testing.assert_allclose(np.asarray(rings.get_offsets()), clean.positions[[3, 5], :2])
    assert {text.get_text() for text in axes.texts} == {'3', '5', 'car 0.70'}
    assert 'x, to the right (m)' == axes.get_xlabel() and 'y, forward (m)' == axes.get_ylabel()
    points, = (child for child in axes.collections if len(child.get_offsets()) == len(clean.points))
    np.testing.assert_allclose(np.asarray(points.get_offsets()), clean.points[:, :2])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ['LiDAR points', 'ego vehicle, facing +y', 'ground truth', 'detections',
                      'queries (color: preference)', 'queries looked at closely']


def test_the_color_bar_says_in_words_what_its_ends_mean(clean):
    for figure in (routing_figure([clean]), routing_cameras_figure(clean)):
        bar = figure.axes[-1]
        labels = dict(zip(bar.get_yticks(), (label.get_text() for label in bar.get_yticklabels())))
        assert 'cameras' in labels[-1] and 'neutral' in labels[0] and 'LiDAR' in labels[1]
        assert bar.get_ylim() == (-1, 1) and 'LiDAR weight − camera weight' in bar.get_ylabel()
    green, purple = color_of(1), color_of(-1)
    assert green[1] > 1.5 * max(green[0], green[2]) and purple[1] < 0.5 * min(purple[0], purple[2])


def lost_lidar(x, y):
    """Beyond 60 degrees of forward, or inside the box."""
    cos, sin = np.cos(0.4), np.sin(0.4)
    along, across = (x + 2) * cos + (y - 12) * sin, (y - 12) * cos - (x + 2) * sin
    return abs(np.degrees(np.arctan2(x, y))) > 60 or (abs(along) <= 3 and abs(across) <= 1.5)


def lost_cameras(x, y):
    seeing = [name for name in CAMERAS if project(np.array([x, y, 0.0]), name)[1]]
    return bool(seeing) and set(seeing) <= {'CAM_FRONT', 'CAM_FRONT_LEFT'}


def test_places_where_sensors_are_lost_are_marked(clean, failed):
    places = np.linspace(-28, 28, 31)
    found = lost_places(failed, places)
    for name, oracle in {'LiDAR lost': lost_lidar, 'cameras lost': lost_cameras}.items():
        expected = np.array([[oracle(x, y) for x in places] for y in places])
        assert 0.05 < expected.mean() < 0.95
        np.testing.assert_array_equal(found[name], expected, name)

    axes = routing_figure([clean, failed]).axes
    assert not [child for child in axes[0].get_children() if isinstance(child, QuadContourSet)]
    rng = np.random.default_rng(0)
    for name, oracle in {'LiDAR lost': lost_lidar, 'cameras lost': lost_cameras}.items():
        region = artist(axes[1], name)
        assert len(region.hatches) == 1 and region.hatches[0]
        path, = region.get_paths()
        for x, y in rng.uniform(-27, 27, (200, 2)):
            near = {oracle(x + dx, y + dy) for dx, dy in itertools.product((-0.3, 0.3), repeat=2)}
            if len(near) == 1:  # the grid resolves no finer
                # Even-odd count of crossings: the path of a region is made of rings, holes included.
                rings = path.to_polygons()
                assert sum(_inside(ring, x, y) for ring in rings) % 2 == near.pop(), (name, x, y)


def _inside(ring, x, y):
    (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
    crosses = (y0 > y) != (y1 > y)
    with np.errstate(divide='ignore', invalid='ignore'):
        return bool((crosses & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))).sum() % 2)


@pytest.mark.parametrize('everywhere', [True, False])
def test_all_of_lidar_or_nothing_is_lost(everywhere):
    failure = FailureRecord('lidar_drop', lidar_everywhere=everywhere, views_lost=np.ones(6, dtype=bool))
    figure = routing_figure([make_snapshot(), make_snapshot('lidar_drop', failure=failure)])
    figure.canvas.draw()
    assert [child for child in figure.axes[1].collections if child.get_label() == 'LiDAR lost'] != [] or not everywhere
    assert 'both lost' in figure.axes[1].get_title(loc='left') or not everywhere


def test_captions_compare_the_same_queries_in_both_cases(clean, failed):
    figure = routing_figure([clean, failed])
    lidar = np.array([lost_lidar(x, y) for x, y, _ in failed.positions])
    seen = [[name for name in CAMERAS if project(position, name)[1]] for position in failed.positions]
    cameras = np.array([bool(names) and set(names) <= {'CAM_FRONT', 'CAM_FRONT_LEFT'} for names in seen])
    for axes, snapshot in zip(figure.axes, (clean, failed)):
        text = ' '.join(axes.get_title(loc='left').split())
        assert text.startswith(str(snapshot.case))
        by = f' by what {LONG_CASE} loses' * (snapshot is clean)  # where clean has nothing lost
        assert f'mean LiDAR / camera weight{by}: nothing lost' in text
        for name, mask in {'nothing lost': ~lidar & ~cameras, 'LiDAR lost': lidar & ~cameras,
                           'cameras lost': ~lidar & cameras, 'both lost': lidar & cameras}.items():
            if mask.any():
                weights = snapshot.lidar_weights[mask].mean(), snapshot.camera_weights[mask].mean()
                assert f'{name} {weights[0]:.2f} / {weights[1]:.2f} ({mask.sum()} queries)' in text
    assert '1 detections; cameras lost: none' in figure.axes[0].get_title(loc='left')
    assert 'cameras lost: CAM_FRONT, CAM_FRONT_LEFT' in figure.axes[1].get_title(loc='left')


@pytest.mark.parametrize('per_view', [False, True])
def test_queries_in_the_images_of_the_views_that_see_them(per_view):
    failed = make_snapshot(LONG_CASE, failure=FAILURE, per_view=per_view)
    figure = routing_cameras_figure(failed, queries=[0])
    order = ['CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT']
    total = 0
    for axes, name in zip(figure.axes, order):
        projected = [project(position, name) for position in failed.positions]
        seen = np.array([is_seen for _, is_seen in projected])
        total += seen.sum()
        assert_dots(axes, np.array([pixel for pixel, _ in projected])[seen],
                    (failed.lidar_weights - failed.view_weights[:, CAMERAS.index(name)])[seen])
        lost = ': lost' * (name in ('CAM_FRONT', 'CAM_FRONT_LEFT'))
        assert axes.get_title() == f'{name}{lost}, {seen.sum()} queries'
        assert axes.get_xlim() == (0, WIDTH) and axes.get_ylim() == (HEIGHT, 0)
        np.testing.assert_array_equal(axes.images[0].get_array(), failed.images[CAMERAS.index(name)])
        assert (name == 'CAM_FRONT') <= bool(axes.collections[0].get_segments())  # the car ahead
    assert total > 20


@pytest.mark.parametrize('local', [False, True])
def test_histograms_count_weights_and_bias(local):
    snapshots = [make_snapshot(local=local), make_snapshot('fov:60', seed=1, local=local)]
    figure = histograms_figure(snapshots)
    dense = [snapshot.bias.dense()[0].numpy() for snapshot in snapshots]
    strongest = max(np.abs(values).max() for values in dense)
    for panels, snapshot, bias in zip(np.reshape(figure.axes, (2, -1)), snapshots, dense):
        assert len(panels) == 1 + local  # in global mode both would be the same
        columns = {'LiDAR': (snapshot.lidar_weights, bias[:, :42]), 'cameras': (snapshot.camera_weights, bias[:, 42:])}
        for name, (weights, tokens) in columns.items():
            peak = tokens[np.arange(len(tokens)), np.abs(tokens).argmax(axis=1)]
            for axes, (values, bins) in zip(panels, ((weights, np.linspace(0, 1, 41)),
                                                     (peak, np.linspace(-strongest, strongest, 41)))):
                outline = artist(axes, name).get_xy()
                heights = outline[1:-1:2, 1]
                np.testing.assert_array_equal(heights, np.histogram(values, bins)[0])
        assert str(snapshot.case) in panels[0].get_title(loc='left')


@pytest.mark.parametrize('draw', [
    lambda clean, failed: routing_figure([clean], range(0, 40, 8), 'sample 3'),
    lambda clean, failed: routing_figure([clean, failed], [0, 1], 'sample 3'),
    lambda clean, failed: routing_cameras_figure(failed, [0, 1], f'sample 3, {failed.case}'),
    lambda clean, failed: histograms_figure([clean], 'sample 3'),
    lambda clean, failed: histograms_figure([clean, failed, clean, failed], 'sample 3'),
    lambda clean, failed: query_figure(failed, 4, f'sample 3, {failed.case}: {describe_query(failed, 4)}'),
    lambda clean, failed: query_figure(failed, 4, ' '.join([f'{failed.case}: {describe_query(failed, 4)}'] * 2)),
], ids=['bev', 'side by side', 'cameras', 'histogram', 'histograms', 'query', 'query with a long title'])
def test_no_text_is_cut_off_or_lies_on_another(draw, clean, failed):
    figure = draw(clean, failed)
    figure.canvas.draw()
    page = figure.bbox
    boxes = [(text, text.get_window_extent()) for text in _texts(figure) if text.get_text()]
    assert len(boxes) > 10
    for text, box in boxes:
        assert box.x0 >= page.x0 - 1 and box.y0 >= page.y0 - 1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1, text
    for (one, box), (other, second) in itertools.combinations(boxes, 2):
        overlap = min(box.x1, second.x1) - max(box.x0, second.x0), min(box.y1, second.y1) - max(box.y0, second.y0)
        assert min(overlap) < 1, (one, other)


def _texts(figure):
    """All texts but the numbers of queries: titles, legends, labels, and the tick labels that are shown."""
    for part in (figure, *figure.subfigs):
        yield from part.texts
        for legend in part.legends:
            yield from legend.get_texts()
    for axes in figure.axes:
        yield from (child for child in axes.get_children() if isinstance(child, Text) and child not in axes.texts)
        if axes.axison:
            for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
                yield axis.label
                yield from (label for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels())
                            if min(limits) <= place <= max(limits))


def test_files_are_written_whole(clean, tmp_path):
    draw_routing(tmp_path / 'bev.png', [clean])
    draw_routing_cameras(tmp_path / 'cameras.png', clean)
    draw_histograms(tmp_path / 'new' / 'histograms.png', [clean])
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*.png')) == [
        'bev.png', 'cameras.png', 'new/histograms.png']


def test_frames_without_ground_truth_detections_or_points(clean):
    empty = make_snapshot(neutral=True)
    object.__setattr__(empty, 'ground_truth', None)
    object.__setattr__(empty, 'points', np.zeros((0, 5)))
    empty.detections.update(boxes_3d=empty.detections['boxes_3d'][:0])
    for figure in (routing_figure([empty]), routing_cameras_figure(empty), histograms_figure([empty]),
                   query_figure(empty, 0)):
        figure.canvas.draw()
    _, colors = dots(routing_figure([empty]).axes[0])
    np.testing.assert_allclose(colors, np.tile(color_of(0), (40, 1)), atol=0.03)
