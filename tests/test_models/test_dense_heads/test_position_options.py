"""Options of the head that make positions visible to attention from the start; all off in published configs."""
import math

import pytest
import torch

from projects.mmdet3d_plugin.models.utils.transformer.position_encoding import bev_cell_centers, sine_encoding

from ..conftest import head_config

OPTIONS = dict(position_cycles=6.0, position_gain=2.0)


def near_mass(head, batch):
    """Share of a query's attention to BEV cells that falls within 1.5 cells of its place, in the first layer, and the
    share of such cells.
    """
    x, x_img, metas = batch
    layer = head.transformer.decoder.layers[0].attentions[1]
    taken = []
    layer.attn.register_forward_pre_hook(lambda module, args: taken.append(args[:2]))
    with torch.no_grad():
        head.eval()([x], [x_img], metas)
        query, key = (torch.nn.functional.linear(*args).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
                      for args in zip(taken[0], layer.attn.in_proj_weight.chunk(3), layer.attn.in_proj_bias.chunk(3)))
        if layer.attn.log_temperature is not None:
            query, key = layer.attn.normalize_query(query), layer.attn.normalize_key(key)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        attention = scores[..., :16 * 16].softmax(-1)  # (B, heads, Q, H * W)
        places = head.reference_points.weight[:, None, :2] - bev_cell_centers((16, 16), scores)
        near = ((places * 16).abs() <= 1.5).all(dim=-1)  # (Q, H * W)
    return (attention * near).sum(-1).mean().item(), near.float().mean().item()


def with_attention(make_head, local_start, qk_norm, **options):
    transformer = head_config().transformer
    transformer.local_start = local_start
    transformer.decoder.transformerlayers.attn_cfgs[1].qk_norm = qk_norm
    return make_head(transformer=transformer, **options)


def test_attention_at_start_is_local_only_with_the_options(make_head, make_batch):
    """The tied projections alone do little: the features that positions are added to drown them out."""
    plain, chance = near_mass(make_head(), make_batch())
    tied, _ = near_mass(with_attention(make_head, 2.0, None), make_batch())
    both, _ = near_mass(with_attention(make_head, 2.0, 20.0, **OPTIONS), make_batch())
    assert plain < 1.5 * chance and tied < 3 * chance and both > 10 * chance, (plain, tied, both, chance)


def test_embeddings_start_centered_and_of_the_given_gain(make_head):
    head = make_head(**OPTIONS)
    with torch.no_grad():
        places = bev_cell_centers((32, 32), head.reference_points.weight)
        embedded = head.bev_embedding(sine_encoding(places, head.hidden_dim, head.position_cycles))
    torch.testing.assert_close(embedded.std(dim=-1, unbiased=False), torch.full((1024, ), 2.0), rtol=1e-2, atol=0)
    assert embedded.mean(dim=0).abs().max() < 0.5


def test_parameters(make_head):
    """Off: none. The gain adds norms; the encoding of rays widens one matrix."""
    plain = {key: tuple(value.shape) for key, value in make_head().state_dict().items()}
    found = {key: tuple(value.shape) for key, value in make_head(**OPTIONS).state_dict().items()}
    assert set(found) - set(plain) == {f'{name}_embedding.3.{part}' for name in ('bev', 'rv')
                                       for part in ('weight', 'bias')}
    changed = {key for key in plain if plain[key] != found[key]}
    assert changed == {'rv_embedding.0.weight'} and found['rv_embedding.0.weight'] == (256, 8 * 3 * 2 * 3)


def test_training_reaches_the_new_parameters(make_head, make_batch, train_losses):
    head = make_head(**OPTIONS)
    sum(train_losses(head.train(), make_batch()).values()).backward()
    for embedding in (head.bev_embedding, head.rv_embedding):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in embedding.parameters())


def test_routing_starts_neutral_with_all_options(make_head, make_batch):
    """The router's zero layer survives what the options initialize."""
    head = make_head(enable_aqr=True, **OPTIONS).eval()
    x, x_img, metas = make_batch()
    with torch.no_grad():
        routing = head([x], [x_img], metas)[0][0]['routing']
    assert (routing.lidar_weights == 0.5).all() and (routing.camera_weights == 0.5).all()


@pytest.mark.parametrize('name, value', [('position_cycles', 0.5), ('position_cycles', math.nan),
                                         ('position_gain', 0), ('position_gain', math.inf)])
def test_bad_values(make_head, name, value):
    with pytest.raises(ValueError, match=f'{name} must be'):
        make_head(**{name: value})
