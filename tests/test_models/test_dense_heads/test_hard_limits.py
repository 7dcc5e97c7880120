"""Heads that could not train or detect are refused when built; predictions that are no numbers are no detections."""
import math

import pytest
import torch

from ..conftest import PC_RANGE, randomize


@pytest.mark.parametrize('name, values', [
    ('num_query', [0, -5, 2.5, '900', True]),
    ('hidden_dim', [0]),
    ('depth_num', [0, -1]),
    ('downsample_scale', [0]),
    ('dn_weight', [-1.0, math.nan, math.inf]),
    ('noise_scale', [-0.1, math.nan]),
    ('noise_trans', [-0.1, math.inf]),
    ('split', [0, -1.0, math.nan]),
    ('scalar', [-1, 1.5, math.nan]),
    ('aqr_bias_strength', [1e30, 1.1e4, 10**400]),
    ('aqr_loss_weight', [-1.0, math.nan, '1']),
])
def test_arguments_out_of_range(make_head, name, values):
    for value in values:
        with pytest.raises(ValueError, match=f'{name}.* must be') as caught:
            make_head(**{name: value})
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize('name', ['dn_weight', 'num_query', 'scalar'])
def test_a_head_without_losses_checks_them_too(make_head, name):
    with pytest.raises(ValueError, match=name):
        make_head(train_cfg=None, **{name: -1})


@pytest.mark.parametrize('weights', [[1.0] * 9, [0.0] * 10, [math.nan] * 10, [-1.0] + [1.0] * 9])
def test_code_weights(make_head, weights):
    head = make_head()
    with pytest.raises(ValueError, match='code_weights must hold 10 finite numbers >= 0'):
        make_head(train_cfg=dict(head.train_cfg, code_weights=weights))


@pytest.mark.parametrize('change', [dict(max_num=0), dict(score_threshold=1), dict(post_center_range=PC_RANGE[3:] * 2)])
def test_coder(make_head, change):
    name, = change
    coder = dict(type='MultiTaskBBoxCoder', pc_range=PC_RANGE, post_center_range=PC_RANGE)
    with pytest.raises(ValueError, match=name):
        make_head(bbox_coder=dict(coder, **change))


def detect(head, batch, spoil=None):
    x, x_img, metas = batch
    with torch.no_grad():
        outs = head.eval()([x], [x_img], metas)
        if spoil is not None:
            spoil(outs[0][0])
        return head.get_bboxes(outs, metas)


@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize('branch', ['center', 'height', 'dim', 'rot', 'vel', 'cls_logits'])
def test_predictions_that_are_not_finite_name_their_sample(make_head, make_batch, branch, value):
    head, batch = make_head(), make_batch((1, 1, 1))
    for index, meta in enumerate(batch[2]):
        meta['sample_idx'] = f'token{index}'
    assert len(detect(head, batch)) == 3

    def spoil(out):
        out[branch][-1, 1, 4, 0] = value

    with pytest.raises(FloatingPointError, match='predictions are not finite for sample token1. .*points.*weights'):
        detect(head, batch, spoil)


def test_samples_without_a_token_are_counted(make_head, make_batch):
    def spoil(out):
        out['cls_logits'][-1, :, 0] = math.nan

    with pytest.raises(FloatingPointError, match='sample number 0 of the batch, number 1 of the batch'):
        detect(make_head(), make_batch(), spoil)


def test_a_size_that_overflows(make_head, make_batch):
    """Its logarithm is a number."""
    def spoil(out):
        out['dim'][-1, 0, :, 0] = 200.0

    with pytest.raises(FloatingPointError, match='detected boxes are not finite for sample number 0'):
        detect(make_head(), make_batch(), spoil)


@pytest.mark.parametrize('place', ['x', 'x_img', 'weight'])
@pytest.mark.parametrize('options', [{}, dict(enable_aqr=True), dict(enable_aqr=True, aqr_use_local_bias=True)])
def test_features_and_weights_that_are_not_finite(make_head, make_batch, options, place):
    head = make_head(**options)
    x, x_img, metas = make_batch()
    if options:
        randomize(head.aqr_router)
    metas[0]['sample_idx'], metas[1]['sample_idx'] = 'fine', 'broken'
    x[1:], x_img[6:] = (math.nan if place == 'x' else x[1:]), (math.nan if place == 'x_img' else x_img[6:])
    if place == 'weight':
        head.task_heads[0].cls_logits[-1].weight.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match='fine, broken' if place == 'weight' else 'sample broken'):
        detect(head, (x, x_img, metas))
