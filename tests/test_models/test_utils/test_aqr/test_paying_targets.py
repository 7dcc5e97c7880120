"""Distrust that pays, against a loop over samples, queries and sensors."""
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.mmdet3d_plugin.models.utils.aqr.supervision import paying_targets, places_to_distrust, routing_loss


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), batch=st.integers(1, 3), num_query=st.integers(1, 5),
       least=st.sampled_from([0.0, 0.02, 0.5]))
def test_against_a_loop(seed, batch, num_query, least):
    rng = np.random.default_rng(seed)
    lost = rng.random((batch, num_query, 2)) < rng.choice([0.0, 0.4, 1.0])
    touched = rng.random((batch, 2)) < 0.6
    benefits = rng.normal(size=(batch, 2)) * 0.3
    targets = paying_targets(*(torch.from_numpy(value) for value in (lost[..., 0], lost[..., 1], touched, benefits)),
                             least)
    places = places_to_distrust(torch.from_numpy(lost[..., 0]), torch.from_numpy(lost[..., 1]))
    for sample in range(batch):
        for sensor in range(2):
            gain = benefits[sample, sensor] - least
            other = benefits[sample, 1 - sensor] - least
            pays = touched[sample, sensor] and gain > 0 and gain > other
            stake = abs(gain) ** 0.25 if touched[sample, sensor] or gain < 0 else 0
            for query in range(num_query):
                there = lost[sample, query, sensor] or not lost[sample, :, sensor].any()
                assert places[sample, query, sensor] == there
                assert targets.weights[sample, query, sensor] == (0 if pays and there else 1)
                np.testing.assert_allclose(targets.importance[sample, query, sensor], stake)
    assert targets.has_target.all() and targets.is_known.all()


def test_the_loss_is_a_mean_by_importance():
    """A weight below 0.5 is best exactly where distrust pays on average, of samples whose evidence is the same."""
    nothing = torch.zeros(2, 1, dtype=torch.bool)
    touched = torch.tensor([[True, False]] * 2)
    targets = paying_targets(nothing, nothing, touched, torch.tensor([[0.4, -0.1], [-0.2, -0.1]]), 0.0)
    weight = torch.full((2, 1), 0.3)
    loss = routing_loss(weight, torch.ones(2, 1), targets, ~nothing)
    stakes = np.array([0.4, 0.2, 0.1, 0.1]) ** 0.25
    expected = stakes @ -np.log([0.7, 0.3, 1, 1]) / stakes.sum()
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-6)
