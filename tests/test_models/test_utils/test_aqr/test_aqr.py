"""The one door to routing: options from a head's arguments, parts that the head owns, record and loss."""
import dataclasses

import pytest
import torch

from projects.mmdet3d_plugin.models.utils.aqr import AQROptions
from projects.mmdet3d_plugin.models.utils.aqr.routing_record import regions

from ...conftest import randomize


def test_options_have_the_names_of_the_heads_arguments():
    options = AQROptions.of_head(dict(aqr_bias_strength=3.0, aqr_per_view=True))
    assert dataclasses.replace(options, bias_strength=5.0, per_view=False) == AQROptions()
    with pytest.raises(TypeError, match="unexpected argument 'aqr_strength'"):
        AQROptions.of_head(dict(aqr_strength=3.0))


def test_parts_are_those_that_the_head_has_now(make_head, make_batch):
    """A router put in its place is asked; a copy of the head has its own."""
    head, batch = make_head(enable_aqr=True).eval(), make_batch()
    other = make_head(seed=3, enable_aqr=True).aqr_router.eval()
    randomize(other)
    head.aqr_router = other
    x, x_img, metas = batch
    with torch.no_grad():
        record = head([x], [x_img], metas)[0][0]['routing']
    assert head.aqr.router is other and (record.lidar_weights != 0.5).any()
    assert make_head().aqr is None


def test_regions_split_the_queries():
    lidar, cameras = torch.tensor([0, 0, 1, 1]).bool(), torch.tensor([0, 1, 0, 1]).bool()
    found = regions(lidar, cameras)
    assert set(found) == {'nothing lost', 'LiDAR lost', 'cameras lost', 'both lost'}
    assert torch.stack(list(found.values())).sum(dim=0).tolist() == [1, 1, 1, 1]
    assert found['LiDAR lost'].tolist() == [False, False, True, False]
