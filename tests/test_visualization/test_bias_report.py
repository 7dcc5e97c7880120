"""The tables of the router's report, against plain means; what each sensor alone shows is in them."""
import numpy as np
import pytest
import torch

from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.models.utils.weight_maps import WEIGHT_MAPS, make_weight_map
from projects.mmdet3d_plugin.visualization.bias_report import describe_query, draw_sample, introduction
from projects.mmdet3d_plugin.visualization.html_report import Table
from tests.tiny_snapshot import CAMERAS, make_snapshot

LOOKS = dict(lidar=(np.linspace(0, 1, 40), np.arange(40) % 2), camera=(np.linspace(1, 0, 40), np.arange(1, 41) % 2))


def tables(folder, *snapshots, queries=(4, )):
    parts = draw_sample(folder, 'sample 3', snapshots, list(queries))[0].parts
    return [part for part in parts if isinstance(part, Table)]


def row_of(table, number=0):
    return dict(zip(table.columns, table.rows[number]))


@pytest.mark.parametrize('per_view', [False, True])
def test_camera_weights_view_by_view(tmp_path, per_view):
    clean, failed = make_snapshot(per_view=per_view), make_snapshot('camera_drop', seed=1, per_view=per_view)
    _, by_view, _ = tables(tmp_path, clean, failed)
    for number, snapshot in enumerate((clean, failed)):
        row = row_of(by_view, number)
        assert row['case'] == str(snapshot.case)
        for view, name in enumerate(CAMERAS):
            own = snapshot.view_weights[snapshot.seen[:, view], view]
            assert row[name] == f'{np.mean(own):.3f} ({len(own)})'
        unseen = snapshot.camera_weights[~snapshot.seen.any(axis=1)]
        assert row['seen by no camera'] == f'{np.mean(unseen):.3f} ({len(unseen)})'


def test_looks_and_stand_ins_of_a_query(tmp_path):
    snapshot = make_snapshot(looks=LOOKS)
    attention = snapshot.attention
    object.__setattr__(snapshot, 'attention', lambda queries: (0.75 * attention(queries)[0], attention(queries)[1]))
    row = row_of(tables(tmp_path, snapshot)[2])
    assert row['by LiDAR alone'] == 'car 0.10' and row['by cameras alone'] == 'pedestrian 0.90'
    assert row['to stand-ins'] == '25.0%'
    assert describe_query(snapshot, 4).endswith('; car 0.10 by LiDAR alone, pedestrian 0.90 by cameras alone')


@pytest.mark.parametrize('local', [False, True])
def test_a_router_that_does_not_look(tmp_path, local):
    snapshot = make_snapshot(local=local)
    row = row_of(tables(tmp_path, snapshot)[2])
    assert not any('alone' in name for name in row) and row['to stand-ins'] == '0.0%'
    assert 'alone' not in describe_query(snapshot, 4)


def test_what_lies_counts_as_lost(tmp_path):
    """A stale image is there: no text may say that it is not."""
    lying = make_snapshot('stale_views@3', failure=FailureRecord('stale_views@3', views_lost=np.ones(6, dtype=bool)))
    from_above, images, *_ = draw_sample(tmp_path, 'sample 3', [make_snapshot(), lying], [])[2].parts
    assert 'A lost sensor shows nothing, or not what is there.' in from_above.caption
    assert images.alt.endswith(f'images lost: {", ".join(CAMERAS)}.')


@pytest.mark.parametrize('weight_map', WEIGHT_MAPS)
@pytest.mark.parametrize('stand_ins', [False, True])
def test_the_introduction_says_what_weights_above_one_half_do(weight_map, stand_ins):
    """As the map itself does."""
    text = ' '.join(introduction(weight_map, stand_ins))
    draws = make_weight_map(weight_map)(torch.tensor([0.9]), 5.0).item() > 0
    assert ('above 0 a query is drawn to the tokens' in text) == draws
    assert ('all weights from 0.5 up give no bias' in text) == (not draws)
    assert ('goes to its stand-ins, the tokens that the sensor gives when it shows nothing' in text) == stand_ins
    assert weight_map == 'linear' or f'By the map "{weight_map}"' in text
