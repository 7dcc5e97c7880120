"""Learned strengths: the start, what a factor acts on, gradients, checkpoints."""
import pytest
import torch

from projects.mmdet3d_plugin.apis.checkpoint import ROUTER_PREFIX
from projects.mmdet3d_plugin.models.utils.aqr.bias_strength_per_head import BiasStrengthPerHead
from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias
from projects.mmdet3d_plugin.models.utils.transformer.attention_recorder import AttentionRecorder
from tests.test_models.test_dense_heads.test_cmt_head_aqr import LOCAL, largest_change, outputs

from ...conftest import randomize


def local_bias(values):
    """Of a map of 3 x 4 cells and a view of 2 x 2."""
    batch, queries, _ = values.shape
    cells = torch.ones(batch, queries, 2, 2, dtype=torch.long)
    return AttentionBias(values, ((3, 4), (2, 2)), cells, torch.ones(batch, queries, 2, dtype=torch.bool), (3, 3))


@pytest.mark.parametrize('make', [lambda values: AttentionBias(values, ((3, 4), (2, 2))), local_bias])
def test_dense_form(make):
    """Every layer and head gets the whole bias times its own factor, between 0 and 2."""
    strength = BiasStrengthPerHead(3, 2).double()
    values = torch.randn(2, 5, 2, dtype=torch.float64)
    assert all(torch.equal(bias.dense()[:, head], make(values).dense()) for bias in strength(make(values))
               for head in range(2))
    with torch.no_grad():
        strength.logits.copy_(torch.tensor([[-50.0, 0], [0.5, 50], [-1, 2]]))
    for layer, bias in enumerate(strength(make(values))):
        assert bias.shape == (2, 2, 5, 16)
        for head in range(2):
            factor = 2 / (1 + torch.exp(-strength.logits[layer, head]))
            torch.testing.assert_close(bias.dense()[:, head], factor * make(values).dense())
    assert strength.factors()[0, 0] < 1e-9 and 2 - strength.factors()[1, 1] < 1e-9


def test_no_head_exceeds_the_clip():
    strength = BiasStrengthPerHead(1, 2, bias_clip=1.0)
    with torch.no_grad():
        strength.logits.copy_(torch.tensor([[9.0, -1.0]]))
    values = torch.tensor([[[1.0, -0.75]]])
    scaled = strength(AttentionBias(values, ((3, 4), (2, 2))))[0].values
    factor = strength.factors()[0, 1].item()
    torch.testing.assert_close(scaled, torch.tensor([[[[1.0, -1.0]], [[factor, -0.75 * factor]]]]))


def test_gradients():
    strength = BiasStrengthPerHead(2, 2).double()
    values = torch.randn(1, 3, 2, dtype=torch.float64, requires_grad=True)

    def dense(values, logits):
        parameters = dict(logits=logits)
        biases = torch.func.functional_call(strength, parameters, (AttentionBias(values, ((3, 4), (2, 2))), ))
        return torch.stack([bias.dense() for bias in biases])

    assert torch.autograd.gradcheck(dense, (values, torch.randn(2, 2, dtype=torch.float64, requires_grad=True)))


@pytest.mark.parametrize('mode', [{}, LOCAL])
def test_in_the_head(make_head, make_batch, mode):
    """Factors of 1 change nothing, those of 0 switch the bias off, and one layer's factor acts on that layer first."""
    batch = make_batch()
    plain = make_head(enable_aqr=True, **mode)
    randomize(plain.aqr_router)
    learned = make_head(seed=1, enable_aqr=True, aqr_strength_per_head=True, **mode)
    result = learned.load_state_dict(plain.state_dict(), strict=False)
    assert result.missing_keys == ['aqr_head_strength.logits'] and not result.unexpected_keys
    assert largest_change(outputs(learned, batch), outputs(plain, batch)) < 1e-5

    def masses():
        with AttentionRecorder(learned) as recorder:
            outputs(learned, batch)
        return [layer.mass for layer in recorder.statistics]

    before = masses()
    with torch.no_grad():
        learned.aqr_head_strength.logits[1] = 3.0
    after = masses()
    assert torch.equal(after[0], before[0]) and not torch.allclose(after[1], before[1], atol=1e-3)

    plain.aqr_bias.strength_factor = 0.0
    with torch.no_grad():
        learned.aqr_head_strength.logits.fill_(-60.0)
    assert largest_change(outputs(learned, batch), outputs(plain, batch)) < 1e-5


def test_the_detection_loss_reaches_every_factor(make_head, make_batch, train_losses):
    head = make_head(enable_aqr=True, aqr_strength_per_head=True).train()
    randomize(head.aqr_router, std=0.1)
    sum(train_losses(head, make_batch()).values()).backward()
    assert (head.aqr_head_strength.logits.grad != 0).all()


def test_parameters_lie_with_the_router(make_head):
    baseline = set(make_head().state_dict())
    added = set(make_head(enable_aqr=True, aqr_strength_per_head=True).state_dict()) - baseline
    assert 'aqr_head_strength.logits' in added
    assert make_head(enable_aqr=True, aqr_strength_per_head=True, aqr_bias_clip=2.5).aqr_head_strength.bias_clip == 2.5
    assert all(f'pts_bbox_head.{key}'.startswith(ROUTER_PREFIX) for key in added)
    assert not hasattr(make_head(aqr_strength_per_head=True), 'aqr_head_strength')


def test_mistakes(make_head):
    with pytest.raises(TypeError, match='aqr_strength_per_head must be True or False'):
        make_head(enable_aqr=True, aqr_strength_per_head=1)
