"""The pictures of `tools/visualize_bias.py` and the report that holds them all."""
from pathlib import Path

from ..models.utils.token_layout import MODALITIES
from .html_report import Picture, Section, Table, write_report
from .query_pictures import draw_query
from .routing_pictures import draw_histograms, draw_routing, draw_routing_cameras, mean_weights

_SENSOR_WORDS = dict(lidar='LiDAR', camera='cameras')
_REGIONS = ('nothing lost', 'LiDAR lost', 'cameras lost', 'both lost')


def draw_sample(folder, name, snapshots, queries, on_case=None, model=''):
    """Draw all pictures of one sample.

    Args:
        folder (str | Path): where they are written, under names that start with `name`.
        name (str): of the sample, for instance 'sample 3'.
        snapshots (Sequence[RoutingSnapshot]): the sample under all cases; 'clean' comes first.
        queries (Sequence[int]): queries that are looked at closely.
        on_case (Callable | None): called whenever the pictures of a case are done, to show progress.
        model (str): name of the detector, in the title of every picture.

    Returns:
        list[Section]: the sample's part of the report.
    """
    stem = Path(folder) / name.replace(' ', '_')
    model = f'{model}: ' if model else ''
    clean, *failed = snapshots
    tables = [_weights_table(snapshots), _views_table(snapshots), _queries_table(snapshots, queries)]
    sections = [Section(name, 2, [*_neutral_note(snapshots), *tables])]
    for snapshot in snapshots:
        case_stem = f'{stem}_{snapshot.case.file_name}'
        parts = []
        title = f'{name}, {snapshot.case}'
        path = Path(f'{case_stem}_bev.png')
        shown = [clean] if snapshot is clean else [clean, snapshot]
        draw_routing(path, shown, queries, model + name)
        parts.append(Picture(path, _bev_alt(name, shown), _BEV_CAPTION + _SIDE_BY_SIDE * (len(shown) > 1)))
        path = Path(f'{case_stem}_cameras.png')
        draw_routing_cameras(path, snapshot, queries, model + title)
        parts.append(Picture(
            path, f'{len(snapshot.images)} camera images of {title}, with boxes and the queries that each sees; '
            f'images lost: {", ".join(snapshot.lost_cameras) or "none"}.', _CAMERAS_CAPTION))
        for query in queries:
            path = Path(f'{case_stem}_query_{query}.png')
            draw_query(path, snapshot, query, f'{model}{title}: {describe_query(snapshot, query)}')
            parts.append(Picture(
                path, f'Bias, and attention without and with it, of query {query} of {title}, on the BEV map and in '
                'the images.', _QUERY_CAPTION))
        sections.append(Section(title, 3, parts))
        if on_case is not None:
            on_case()
    path = Path(f'{stem}_histograms.png')
    draw_histograms(path, snapshots, model + name)
    sections.append(Section(f'{name}, all queries', 3, [Picture(
        path, f'Histograms of the weights of the {len(clean.positions)} queries of {name}, a row per case.',
        'Distribution of LiDAR and camera weights'
        f'{" (left) and of the largest bias that they cause (right)" * clean.bias.is_local}.')]))
    return sections


def write_bias_report(folder, title, facts, samples, on_case=None, model='', weight_map='linear', stand_ins=False):
    """Draw the pictures of all samples and write `report.html`, which holds them, beside them.

    Args:
        folder (str | Path): where to.
        title (str): of the report.
        facts (Sequence[tuple[str, str]]): what it was made of, by name.
        samples (Iterable[tuple[str, list[RoutingSnapshot], list[int]]]): see `draw_sample`.
        on_case, model: see `draw_sample`.
        weight_map (str): of ``WEIGHT_MAPS``, by which the router's weights become a bias.
        stand_ins (bool): the decoder has stand-ins for distrusted sensors.

    Returns:
        Path: the report.
    """
    sections = [section for name, snapshots, queries in samples
                for section in draw_sample(folder, name, snapshots, queries, on_case, model)]
    path = Path(folder) / 'report.html'
    write_report(path, title, facts, [Section('How to read this', 2, introduction(weight_map, stand_ins)), *sections])
    return path


def introduction(weight_map, stand_ins):
    """What the weights of a router are and what they do; arguments as of :func:`write_bias_report`.

    Returns:
        list[str]: paragraphs.
    """
    effect = _EFFECTS.get(weight_map, f'By the map "{weight_map}" the weights {_RISE}')
    return [_ROUTER, f'{effect} {_FEATURES}', *[_STAND_INS] * stand_ins]


def describe_query(snapshot, query):
    """One line on a query: its place, what it detects, its weights."""
    x, y, z = snapshot.positions[query]
    return (f'query {query} at ({x:.1f}, {y:.1f}, {z:.1f}) m, {snapshot.class_names[snapshot.labels[query]]} '
            f'{snapshot.scores[query]:.2f}, LiDAR weight {snapshot.lidar_weights[query]:.2f}, camera weight '
            f'{snapshot.camera_weights[query]:.2f}{_look_words(snapshot, query)}').replace('-', '−')


def _look_words(snapshot, query):
    if snapshot.looks is None:
        return ''
    seen = [f'{_alone(snapshot, sensor, query)} by {_SENSOR_WORDS[sensor]} alone' for sensor in MODALITIES]
    return f'; {", ".join(seen)}'


def _alone(snapshot, sensor, query):
    """What a sensor alone shows of a query, such as 'car 0.71'."""
    scores, labels = snapshot.looks[sensor]
    return f'{snapshot.class_names[labels[query]]} {scores[query]:.2f}'


def _neutral_note(snapshots):
    if any((weights != 0.5).any() for snapshot in snapshots
           for weights in (snapshot.lidar_weights, snapshot.camera_weights)):
        return []
    return ['Every weight is 0.5: the router is neutral, as an untrained one is, or a conferring one that sees what is '
            'unlike all of its training, and there is no bias.']


def _weights_table(snapshots):
    rows = []
    for snapshot in snapshots:
        means = mean_weights(snapshot, snapshot.regions())
        regions = ['{1:.3f} / {2:.3f} ({0} queries)'.format(*means[region]) if region in means else ''
                   for region in _REGIONS]
        rows.append((str(snapshot.case), ', '.join(snapshot.lost_cameras) or 'none',
                     len(snapshot.detections['scores_3d']), *regions))
    return Table('Mean LiDAR / camera weight of the queries, by what the case loses at their place.',
                 ('case', 'cameras lost', 'detections drawn', *_REGIONS), rows)


def _views_table(snapshots):
    rows = []
    for snapshot in snapshots:
        groups = [(snapshot.view_weights[:, view], seen) for view, seen in enumerate(snapshot.seen.T)]
        groups.append((snapshot.camera_weights, ~snapshot.seen.any(axis=1)))
        rows.append((str(snapshot.case), *(f'{weights[mask].mean():.3f} ({mask.sum()})' if mask.any() else ''
                                           for weights, mask in groups)))
    return Table('Mean camera weight of the queries that a camera sees (how many it sees).',
                 ('case', *snapshots[0].camera_names, 'seen by no camera'), rows)


def _queries_table(snapshots, queries):
    looks = snapshots[0].looks is not None
    rows = []
    for query in queries:
        for snapshot in snapshots:
            attention = [part[0] for part in snapshot.attention([query])]
            biased, unbiased = (part[:snapshot.layout.num_bev].sum() for part in attention)
            lost = next(region for region, mask in snapshot.regions().items() if mask[query])
            rows.append((query, str(snapshot.case), lost, snapshot.class_names[snapshot.labels[query]],
                         float(snapshot.scores[query]),
                         *(_alone(snapshot, sensor, query) for sensor in MODALITIES if looks),
                         f'{snapshot.lidar_weights[query]:.3f} / {snapshot.camera_weights[query]:.3f}',
                         f'{unbiased:.1%}', f'{biased:.1%}', f'{max(0, 1 - attention[0].sum()):.1%}'))
    return Table(f'Queries looked at closely; attention in decoder layer {snapshots[0].layer}, mean over heads.',
                 ('query', 'case', 'at its place', 'class', 'score',
                  *(f'by {_SENSOR_WORDS[sensor]} alone' for sensor in MODALITIES if looks), 'LiDAR / camera weight',
                  'attention to LiDAR without the bias', 'with it', 'to stand-ins'), rows)


def _bev_alt(name, snapshots):
    descriptions = []
    for snapshot in snapshots:
        low, high = snapshot.preference.min(), snapshot.preference.max()
        truth = '' if snapshot.ground_truth is None else f', {len(snapshot.ground_truth)} boxes of the ground truth'
        descriptions.append(f'{snapshot.case}: {len(snapshot.positions)} queries with preferences from {low:.2f} to '
                            f'{high:.2f}, {len(snapshot.detections["scores_3d"])} detections{truth}, '
                            f'{len(snapshot.points)} points')
    return f'Bird\'s-eye view of {name}. {"; beside it ".join(descriptions)}.'


_ROUTER = (
    'A detector with an adaptive query router looks for objects with queries, each of which starts from a place of its '
    'own (a dot). The router gives every query a LiDAR weight and a camera weight in [0, 1]; 0.5 is neutral. Its '
    'preference is the LiDAR weight minus the camera weight: green dots trust LiDAR more, purple ones the cameras, '
    'white ones both alike.')
_RISE = (
    'become a bias on the scores of cross-attention, which rises with them and is 0 at 0.5: above 0 a query is drawn '
    'to the tokens of that sensor, below 0 it is kept from them.')
_EFFECTS = dict(
    linear=f'The weights {_RISE}',
    log_gate=(
        'By the map "log_gate" a weight below 0.5 becomes a negative bias on the scores of cross-attention, which '
        'keeps the query from the tokens of that sensor; all weights from 0.5 up give no bias and draw it nowhere. So '
        'a dot may be colored and unbiased: its color shows weights, and a close look at a query its bias.'))
_FEATURES = 'Features stay as they are.'
_STAND_INS = (
    'What a negative bias takes from a sensor goes to its stand-ins, the tokens that the sensor gives when it shows '
    'nothing (black images, no points), and not to the other sensor.')
_BEV_CAPTION = (
    'From above: LiDAR points, boxes with a line to their front, and every query at its reference point, in the color '
    'of its preference. Hatched: places where LiDAR is lost; dotted: places all of whose cameras are lost. A lost '
    'sensor shows nothing, or not what is there.')
_SIDE_BY_SIDE = (
    ' Left the clean sample, right the failure; the means above both maps are over the same queries, grouped by what '
    'the failure loses at their place.')
_CAMERAS_CAPTION = 'The images as the network got them, with projected boxes and the queries that each view sees.'
_QUERY_CAPTION = (
    'The attention that the scores would give without the bias, the attention with it, and the difference (red: the '
    'bias adds attention, blue: it takes some); where the bias differs from token to token, it comes first. A query '
    'without bias has its attention alone. Left on the BEV map, right on the cells of the images. The scale of '
    'attention is logarithmic.')
