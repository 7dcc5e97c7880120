import hashlib
import os

import pytest
import torch
from mmcv.runner import save_checkpoint
from mmdet3d.models import build_model

from projects.mmdet3d_plugin.apis import build_trained_model, inference, load_config, publish_checkpoint
from projects.mmdet3d_plugin.apis.checkpoint import load_weights, read_checkpoint
from projects.mmdet3d_plugin.utils.content_hash import file_sha256
from tests.tiny_detector import TinyDetector

SMALL = {
    'model.img_backbone.base_channels': 8, 'model.img_neck.in_channels': [32, 64], 'model.pts_bbox_head.num_query': 30,
    'model.pts_bbox_head.transformer.decoder.num_layers': 1
}


@pytest.fixture
def training_checkpoint(tmp_path):
    """Path of a tiny model's checkpoint with optimizer, auxiliary heads and all that meta has."""
    model = TinyDetector()
    model.auxiliary_heads = torch.nn.ModuleDict(dict(bev=torch.nn.Linear(100, 100)))
    meta = dict(epoch=3, iter=30, seed=7, exp_name='tiny.py', config='a = 1', CLASSES=('car', ), rng_states=[1] * 1000)
    save_checkpoint(model, str(tmp_path / 'epoch_3.pth'), torch.optim.AdamW(model.parameters()), meta=meta)
    return tmp_path / 'epoch_3.pth'


def test_weights_and_provenance_alone_are_left(training_checkpoint, tmp_path):
    path, meta = publish_checkpoint(training_checkpoint, tmp_path / 'new/small.pth', dict(command='tools/train.py a b'))
    checkpoint = torch.load(path, weights_only=True)
    assert set(checkpoint) == {'meta', 'state_dict'} and checkpoint['meta'] == meta
    assert meta == dict(epoch=3, iter=30, seed=7, exp_name='tiny.py', config='a = 1', CLASSES=('car', ),
                        source_sha256=file_sha256(training_checkpoint), command='tools/train.py a b')
    source, weights = read_checkpoint(training_checkpoint)['state_dict'], checkpoint['state_dict']
    assert set(source) - set(weights) == {'auxiliary_heads.bev.weight', 'auxiliary_heads.bev.bias'}
    assert set(source._metadata) - set(weights._metadata) == {'auxiliary_heads', 'auxiliary_heads.bev'}
    for key, value in weights.items():
        assert value.dtype == (torch.half if source[key].is_floating_point() else source[key].dtype)
        torch.testing.assert_close(value.to(source[key].dtype), source[key], rtol=2**-11, atol=1e-7)
    assert os.listdir(tmp_path / 'new') == [path.name]

    model = TinyDetector()
    load_weights(model, read_checkpoint(path)['state_dict'])
    assert {value.dtype for value in model.parameters()} == {torch.float}


def test_the_name_has_the_hash_of_the_contents(training_checkpoint, tmp_path):
    path, _ = publish_checkpoint(training_checkpoint, tmp_path / 'a.b/small.v2.pth')
    assert path == tmp_path / f'a.b/small.v2-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth'
    again, _ = publish_checkpoint(training_checkpoint, tmp_path / 'other.pth')
    assert again.name[-12:] == path.name[-12:]
    noted, _ = publish_checkpoint(training_checkpoint, tmp_path / 'other.pth', dict(hours='3'))
    assert noted.name != again.name and len(list(tmp_path.glob('other-*.pth'))) == 2
    url = path.as_uri()
    assert torch.hub.load_state_dict_from_url(url, str(tmp_path / 'hub'), check_hash=True, weights_only=True)


@pytest.mark.parametrize('key, value, message', [
    ('encoder.0.weight', 65520.0, 'encoder.0.weight does not fit into half precision.*allowed: 65504'),
    ('encoder.0.weight', -1e6, 'encoder.0.weight does not fit into half precision.*allowed: 65504'),
    ('encoder.1.running_var', 65520.0, 'encoder.1.running_var does not fit into half precision.*allowed: 65504'),
    ('encoder.0.weight', float('inf'), 'NaN or infinite: encoder.0.weight'),
    ('encoder.1.running_var', float('nan'), 'NaN or infinite: encoder.1.running_var'),
    ('encoder.1.running_var', -0.5, 'negative variances: encoder.1.running_var')])
def test_numbers_that_half_precision_or_no_model_holds_are_refused(training_checkpoint, tmp_path, key, value, message):
    checkpoint = torch.load(training_checkpoint, weights_only=True)
    checkpoint['state_dict'][key].view(-1)[0] = value
    torch.save(checkpoint, training_checkpoint)
    with pytest.raises(ValueError, match=message):
        publish_checkpoint(training_checkpoint, tmp_path / 'small.pth')
    assert os.listdir(tmp_path) == ['epoch_3.pth']


def test_of_an_ema_hook_the_averaged_weights_are_kept(training_checkpoint, tmp_path):
    checkpoint = torch.load(training_checkpoint, weights_only=True)
    weights = checkpoint['state_dict']
    weights['ema_encoder_0_weight'] = torch.zeros_like(weights['encoder.0.weight'])
    torch.save(checkpoint, training_checkpoint)
    path, _ = publish_checkpoint(training_checkpoint, tmp_path / 'small.pth')
    published = read_checkpoint(path)['state_dict']
    assert 'ema_encoder_0_weight' not in published
    torch.testing.assert_close(
        published['encoder.0.weight'].float(), weights['encoder.0.weight'], rtol=2**-11, atol=1e-7)


def test_notes_replace_nothing(training_checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"\['seed'\] are written anyway"):
        publish_checkpoint(training_checkpoint, tmp_path / 'small.pth', dict(seed='8'))


def test_a_published_model_detects_the_same(repo_root, real_frame, tmp_path):
    cfg = load_config(repo_root / 'configs/cmt_aqr_real_frame.py', SMALL)
    torch.manual_seed(0)
    model = build_model(cfg.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'whole.pth')
    path, _ = publish_checkpoint(tmp_path / 'whole.pth', tmp_path / 'small.pth')
    assert os.path.getsize(path) < 0.55 * os.path.getsize(tmp_path / 'whole.pth')
    dataset = inference.build_frame_dataset(cfg, str(real_frame))
    whole, small = (next(inference.detect(build_trained_model(cfg, str(checkpoint)), dataset))[1]
                    for checkpoint in (tmp_path / 'whole.pth', path))
    assert len(whole['scores_3d']) == len(small['scores_3d']) > 20
    torch.testing.assert_close(whole['scores_3d'], small['scores_3d'], rtol=0, atol=1e-3)
    for box, label in zip(whole['boxes_3d'].tensor[:20], whole['labels_3d'][:20]):  # near ties may change places
        others = small['boxes_3d'].tensor[small['labels_3d'] == label]
        assert torch.isclose(others[:, :7], box[:7], rtol=2e-3, atol=0.02).all(dim=1).any()
