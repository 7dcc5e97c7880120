import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from projects.mmdet3d_plugin.models.utils.attention_bias_generator import AttentionBiasGenerator
from projects.mmdet3d_plugin.models.utils.weight_maps import WEIGHT_MAPS
from tests.fuzz.oracles import loop_bias
from tests.fuzz.strategies import routed_queries


def build(**kwargs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('warnings.warn', lambda *args, **kw: None)  # small windows are on purpose here
        return AttentionBiasGenerator(**kwargs)


@given(routed_queries(), st.booleans())
def test_equals_loop_oracle(case, local):
    (lidar, camera), pts_idx, cells, seen, bev_shape, view_shape, alpha, windows = case
    generator = build(bev_feature_shape=bev_shape, pers_feature_shape=view_shape, bias_strength=alpha,
                      use_local_bias=local, local_window_size=windows)
    bias = generator(lidar, camera, pts_idx, cells, seen)
    expected = loop_bias(lidar, camera, pts_idx, cells, seen, bev_shape, view_shape, alpha,
                           windows if local else None)
    torch.testing.assert_close(bias, expected)
    assert bias.abs().max() <= alpha


@given(routed_queries())
def test_single_view_form_is_a_special_case(case):
    (lidar, camera), pts_idx, cells, seen, bev_shape, view_shape, alpha, windows = case
    first = seen.int().argmax(dim=2)  # (B, Q) the first view that sees the query
    single = torch.cat([first.unsqueeze(-1), cells.gather(2, first[..., None, None].expand(-1, -1, 1, 2)).squeeze(2)],
                       dim=-1)
    single[~seen.any(dim=2)] = -1
    only_first = seen & (torch.arange(view_shape[0]) == first.unsqueeze(-1))
    generator = build(bias_strength=alpha, use_local_bias=True, local_window_size=windows)
    shapes = dict(bev_feature_shape=bev_shape, pers_feature_shape=view_shape)
    torch.testing.assert_close(generator(lidar, camera, pts_idx, single, **shapes),
                               generator(lidar, camera, pts_idx, cells, only_first, **shapes))


@given(routed_queries())
def test_gradient_of_weights(case):
    (lidar, camera), pts_idx, cells, seen, bev_shape, view_shape, alpha, windows = case
    generator = build(bev_feature_shape=bev_shape, pers_feature_shape=view_shape, bias_strength=alpha,
                      use_local_bias=True, local_window_size=windows)
    # Away from 0 and 1, so that the numeric gradient stays inside the allowed weights.
    lidar, camera = ((x * 0.8 + 0.1).requires_grad_() for x in (lidar, camera))
    assert torch.autograd.gradcheck(lambda a, b: generator(a, b, pts_idx, cells, seen), (lidar, camera))


def test_neutral_and_extreme_weights():
    generator = AttentionBiasGenerator((2, 3), (1, 2, 2), bias_strength=5.0)
    bias = generator(torch.tensor([[0.5, 1.0, 0.0]]), torch.tensor([[0.5, 0.0, 1.0]]))
    assert bias.shape == (1, 3, 10)
    assert (bias[0, 0] == 0).all()
    assert (bias[0, 1, :6] == 5).all() and (bias[0, 1, 6:] == -5).all()
    assert (bias[0, 2, :6] == -5).all() and (bias[0, 2, 6:] == 5).all()


def test_local_without_indices_is_global():
    weights = torch.rand(2, 4), torch.rand(2, 4)
    local = AttentionBiasGenerator((3, 3), (2, 2, 2), use_local_bias=True)
    glob = AttentionBiasGenerator((3, 3), (2, 2, 2))
    assert torch.equal(local(*weights), glob(*weights))
    with_lidar_only = local(*weights, pts_idx=torch.full((2, 4), -1))
    assert (with_lidar_only[..., :9] == 0).all() and torch.equal(with_lidar_only[..., 9:], glob(*weights)[..., 9:])


def test_windows_do_not_wrap_around_rows_or_views():
    generator = AttentionBiasGenerator((4, 4), (2, 3, 3), use_local_bias=True, local_window_size=5)
    one = torch.ones(1, 1)
    bias = generator(one, one, torch.tensor([[3]]), torch.tensor([[[0, 2, 2]]]))[0, 0]
    bev, views = bias[:16].view(4, 4), bias[16:].view(2, 3, 3)
    assert bev[0, 3] == 5 and (bev[:, 0] == 0).all() and (bev[3] == 0).all()
    assert views[0, 2, 2] == 5 and (views[1] == 0).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    generator = AttentionBiasGenerator((5, 5), (1, 3, 3), use_local_bias=True)
    weights = torch.rand(1, 6, dtype=torch.float64)
    idx, cells = torch.arange(6).view(1, 6), torch.zeros(1, 6, 3, dtype=torch.long)
    half = generator(weights.to(dtype), weights.to(dtype), idx, cells)
    assert half.dtype == dtype
    torch.testing.assert_close(half.double(), generator(weights, weights, idx, cells), rtol=0, atol=0.1)


@pytest.mark.parametrize('strength', [-1, math.inf, math.nan, '5', True, None])
def test_bad_strength(strength):
    with pytest.raises(ValueError, match='bias_strength'):
        AttentionBiasGenerator(bias_strength=strength)


@pytest.mark.parametrize('window', [0, 4, -3, 2.0, '15', True, dict(lidar=5), dict(lidar=5, camera=4)])
def test_bad_window(window):
    with pytest.raises(ValueError, match='local_window_size'):
        AttentionBiasGenerator(local_window_size=window)


@pytest.mark.parametrize('kwargs', [dict(bias_strength=0.5), dict(bias_strength=20),
                                    dict(use_local_bias=True, local_window_size=27)])
def test_unusual_values_warn_once(kwargs):
    with pytest.warns(UserWarning, match='recommended') as caught:
        generator = AttentionBiasGenerator((2, 2), (1, 2, 2), **kwargs)
        for _ in range(2):
            generator(torch.rand(1, 1), torch.rand(1, 1), torch.zeros(1, 1, dtype=torch.long))
    assert len(caught) == 1


ONE = torch.full((1, 1), 0.7)
IDX = torch.zeros(1, 1, dtype=torch.long)
CELL = torch.zeros(1, 1, 2, 2, dtype=torch.long)
SEEN = torch.ones(1, 1, 2, dtype=torch.bool)


@pytest.mark.parametrize('args, error, name', [
    ((ONE + 0.5, ONE), ValueError, 'lidar_weights'),
    ((ONE, ONE - 1), ValueError, 'camera_weights'),
    ((ONE * math.nan, ONE), ValueError, 'lidar_weights'),
    ((ONE[0], ONE[0]), ValueError, r'\(B, Q\)'),
    ((ONE, torch.rand(1, 2)), ValueError, r'\(B, Q\)'),
    ((ONE, ONE, IDX + 6), ValueError, 'pts_idx'),
    ((ONE, ONE, IDX - 2), ValueError, 'pts_idx'),
    ((ONE, ONE, IDX.float()), TypeError, 'pts_idx'),
    ((ONE, ONE, IDX[0]), ValueError, 'pts_idx'),
    ((ONE, ONE, IDX, CELL), ValueError, 'pts_pers_valid'),
    ((ONE, ONE, IDX, CELL + 9, SEEN), ValueError, 'pts_pers_idx'),
    ((ONE, ONE, IDX, CELL[:, :, :1], SEEN), ValueError, 'pts_pers_idx'),
    ((ONE, ONE, IDX, torch.tensor([[[2, 0, 0]]])), ValueError, 'pts_pers_idx'),
    ((ONE, ONE, IDX, torch.tensor([[[0, 0, 3]]])), ValueError, 'pts_pers_idx'),
    ((ONE, ONE, IDX, torch.tensor([[[0, 0, 0]]]), SEEN), ValueError, 'pts_pers_valid'),
])
def test_bad_input(args, error, name):
    generator = AttentionBiasGenerator((2, 3), (2, 3, 3), use_local_bias=True)
    with pytest.raises(error, match=name):
        generator(*args)


@given(routed_queries(), st.booleans(), st.sampled_from([None, 0.5, 2, 7.5]), st.sampled_from([0.0, 0.25, 1.0]))
def test_clip_and_strength_factor(case, local, clip, factor):
    """The bias that a query asks for is weakened, then clipped; windows fade what is left."""
    (lidar, camera), pts_idx, cells, seen, bev_shape, view_shape, alpha, windows = case
    generator = build(bev_feature_shape=bev_shape, pers_feature_shape=view_shape, bias_strength=alpha,
                      use_local_bias=local, local_window_size=windows, bias_clip=clip)
    generator.strength_factor = factor
    limit = math.inf if clip is None else clip
    asked = [((weights - 0.5) * 2 * alpha * factor).clamp(-limit, limit) for weights in (lidar, camera)]
    expected = loop_bias(*(bias / 2 + 0.5 for bias in asked), pts_idx, cells, seen, bev_shape, view_shape, 1.0,
                           windows if local else None)
    bias = generator(lidar, camera, pts_idx, cells, seen)
    torch.testing.assert_close(bias, expected)
    assert bias.abs().max() <= limit


def test_clip_by_hand():
    generator = AttentionBiasGenerator((1, 1), (1, 1, 1), bias_strength=5.0, bias_clip=3.0)
    lidar = torch.tensor([[0.0, 0.1, 0.3, 0.5, 0.9, 1.0]], requires_grad=True)
    bias = generator(lidar, torch.full_like(lidar, 0.5))[0, :, 0]
    torch.testing.assert_close(bias, torch.tensor([-3.0, -3.0, -2.0, 0.0, 3.0, 3.0]))
    bias.sum().backward()
    assert lidar.grad.tolist() == [[0, 0, 10, 10, 0, 0]]  # none for those that ask for more
    generator.strength_factor = 0.5
    torch.testing.assert_close(generator(lidar, lidar)[0, :, 0], torch.tensor([-2.5, -2.0, -1.0, 0.0, 2.0, 2.5]))


def test_a_fresh_generator_has_full_strength_which_no_checkpoint_changes():
    generator = AttentionBiasGenerator((1, 1), (1, 1, 1))
    assert generator.strength_factor == 1.0 and not generator.state_dict()
    assert 'bias_clip=None' in repr(generator) and 'bias_clip=2.0' in repr(AttentionBiasGenerator(bias_clip=2))


@pytest.mark.parametrize('clip', [0, -1.0, math.inf, math.nan, '5', True])
def test_bad_clip(clip):
    with pytest.raises(ValueError, match='bias_clip must be None or a finite number > 0'):
        AttentionBiasGenerator(bias_clip=clip)


@pytest.mark.parametrize('name', list(WEIGHT_MAPS))
def test_every_map_is_neutral_monotone_and_bounded(name):
    weights = torch.linspace(0, 1, 101, dtype=torch.float64)
    for strength in (0.0, 1.0, 7.5):
        bias = build(bias_strength=strength, weight_map=name).weight_to_bias(weights)
        assert bias[50] == 0 and bias.abs().max() <= strength
        assert (bias.diff() >= 0).all() and ((bias.diff() > 0).any() or strength == 0)


def in_place(weights, strength):
    return weights.sub_(0.5).mul_(2 * strength)


@pytest.mark.parametrize('make, message', [
    (lambda weights, strength: weights, "aqr_weight_map='own': .* must take no argument and make the map"),
    (lambda: lambda weights: weights, "aqr_weight_map='own': the map is called with weights .* and a strength"),
    (lambda: None, 'calling it gave'),
    (lambda: lambda weights, strength: None, "aqr_weight_map='own' must give a bias .* at strength 4 it gives None"),
    (lambda: lambda weights, strength: weights.sum(), r'it gives a tensor \(\) of torch.float32, not \(101,\)'),
    (lambda: lambda weights, strength: weights[:, None] - 0.5, r'it gives a tensor \(101, 1\)'),
    (lambda: lambda weights, strength: (weights.double() - 0.5) * strength, 'of torch.float64, not .* torch.float32'),
    (lambda: lambda weights, strength: (weights - 0.5) * 3 * strength, 'at strength 4 it gives values from -6 to 6'),
    (lambda: lambda weights, strength: (weights - 0.5) / 0, 'it gives -inf at weight 0'),
    (lambda: lambda weights, strength: -strength + 0 * weights, 'it gives -4 at weight 0.5'),
    (lambda: lambda weights, strength: (0.5 - weights) * strength, 'it falls from .* at weight 0'),
    (lambda: lambda weights, strength: (weights - 0.5) ** 2 * strength * (weights > 0.5) * (weights < 0.9),
     'falls from .* at weight 0.89 to 0 at 0.9'),
    (lambda: in_place, 'changes the weights in place'),
    # right at strength 4
    (lambda: lambda weights, strength: (weights - 0.5) * 8, 'at strength 0 it gives values from -4 to 4'),
    (lambda: lambda weights, strength: (weights - 0.5) * 2 * strength * (strength / strength if strength else math.nan),
     'at strength 0 it gives nan at weight 0'),
    (lambda: lambda weights, strength: (weights - 0.5) * strength ** 2 / 2, 'at strength 10 it gives values from -25'),
])
def test_maps_that_are_none(monkeypatch, make, message):
    monkeypatch.setitem(WEIGHT_MAPS, 'own', make)
    with pytest.raises(ValueError, match=message):
        AttentionBiasGenerator(weight_map='own', bias_strength=4)


def test_a_map_is_tried_at_the_strength_that_is_configured(monkeypatch):
    monkeypatch.setitem(WEIGHT_MAPS, 'own', lambda: lambda weights, strength: (weights - 0.5) * strength
                        * (2.5 if strength == 3.5 else 2))
    AttentionBiasGenerator(weight_map='own', bias_strength=4)
    with pytest.raises(ValueError, match='at strength 3.5 it gives values from -4.375 to 4.375'):
        AttentionBiasGenerator(weight_map='own', bias_strength=3.5)


def test_a_map_of_ones_own(monkeypatch):
    monkeypatch.setitem(WEIGHT_MAPS, 'own', lambda: lambda weights, strength: (weights - 0.5).clamp(max=0) * strength)
    bias = AttentionBiasGenerator(weight_map='own', bias_strength=4.0).weight_to_bias(torch.tensor([0.0, 0.25, 1.0]))
    assert bias.tolist() == [-2.0, -1.0, 0.0]


def test_unknown_map():
    for name in ('no such map', ['linear']):
        message = r"aqr_weight_map must be one of \['linear'.*\], got " + re.escape(repr(name))
        with pytest.raises(ValueError, match=message):
            AttentionBiasGenerator(weight_map=name)
