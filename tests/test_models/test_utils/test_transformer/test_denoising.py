import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from projects.mmdet3d_plugin.models.utils.transformer.denoising import DenoisingQueries
from tests.fuzz.oracles import loop_mask
from tests.fuzz.strategies import ground_truth

RANGE = [-10.0, -10.0, -2.0, 10.0, 10.0, 2.0]


def make(**kwargs):
    return DenoisingQueries(**dict(dict(num_groups=3, noise_scale=1.0, noise_trans=0.0, split=0.75, pc_range=RANGE,
                                        num_classes=4), **kwargs))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.integers(1, 12), st.integers(1, 4),
       st.integers(0, 2**31))
def test_layout(counts, num_query, num_groups, seed):
    boxes, labels = ground_truth(counts, seed)
    torch.manual_seed(seed)
    batch = make(num_groups=num_groups)(boxes, labels, num_query, torch.zeros(()))
    slots = max(counts)
    groups = min(num_groups, num_query // slots) if slots else 0
    if groups == 0:
        assert batch is None
        return
    assert batch.pad_size == groups * slots and batch.reference_points.shape == (len(counts), groups * slots, 3)
    assert torch.equal(batch.attn_mask, loop_mask(groups, slots, num_query))
    for sample, count in enumerate(counts):
        expected = torch.tensor([slot % slots < count for slot in range(groups * slots)])
        assert torch.equal(batch.occupied[sample], expected)
        assert (batch.reference_points[sample][~expected] == 0).all()
        for slot in expected.nonzero().flatten().tolist():
            place = ((batch.sample_index == sample) & (batch.slot_index == slot)).nonzero().flatten()
            assert len(place) == 1
            assert torch.equal(batch.boxes[place[0]], boxes[sample][slot % slots])
            assert batch.labels[place[0]] == labels[sample][slot % slots]


def test_noise_stays_in_the_box_and_far_ones_become_background():
    boxes, labels = ground_truth([400])
    torch.manual_seed(0)
    batch = make(num_groups=1)(boxes, labels, 900, torch.zeros(()))
    low, high = torch.tensor(RANGE[:3]), torch.tensor(RANGE[3:])
    shift = batch.reference_points[0] * (high - low) + low - boxes[0][:, :3]
    relative = shift / (boxes[0][:, 3:6] / 2)
    assert relative.abs().max() <= 1 + 1e-4 and relative.abs().max() > 0.9
    far = relative.norm(dim=1) > 0.75
    assert torch.equal(batch.noisy_labels == 4, far) and 0.3 < far.float().mean() < 0.95
    assert torch.equal(batch.noisy_labels[~far], labels[0][~far])


def test_references_are_fractions_without_noise_too():
    boxes, labels = ground_truth([3])
    batch = make(noise_scale=0.0, num_groups=1)(boxes, labels, 5, torch.zeros(()))
    expected = (boxes[0][:, :3] - torch.tensor(RANGE[:3])) / torch.tensor([20.0, 20.0, 4.0])
    torch.testing.assert_close(batch.reference_points[0], expected)
    assert torch.equal(batch.noisy_labels, labels[0])


@pytest.mark.parametrize('counts, num_query', [([0, 0], 10), ([11, 2], 10)])
def test_nothing_to_denoise(counts, num_query):
    assert make()(*ground_truth(counts), num_query, torch.zeros(())) is None
