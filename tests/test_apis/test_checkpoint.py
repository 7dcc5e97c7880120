import contextlib
import logging
import os
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmcv.parallel import MMDataParallel
from mmcv.runner import save_checkpoint
from mmdet3d.ops import make_sparse_convmodule
from torch import nn

from projects.mmdet3d_plugin.apis.checkpoint import load_pretrained, load_weights, read_checkpoint
from projects.mmdet3d_plugin.apis.storage_records import check_storage_records
from tests.tiny_detector import TinyDetector

ROUTER_KEYS = {'pts_bbox_head.aqr_router.weight', 'pts_bbox_head.aqr_router.bias'}


class RunsCode:
    """An object whose unpickling leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace), )


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class TestReadCheckpoint:

    def test_all_common_forms(self, tmp_path):
        model = TinyDetector()
        expected = model.state_dict()
        save_checkpoint(MMDataParallel(model), str(tmp_path / 'mmcv.pth'), torch.optim.AdamW(model.parameters()),
                        meta=dict(epoch=1, iter=2, CLASSES=('car', ), config='a = 1'))
        torch.save(expected, tmp_path / 'bare.pth')
        torch.save(dict(state_dict=MMDataParallel(model).state_dict()), tmp_path / 'wrapped.pth')
        for name in ('mmcv', 'bare', 'wrapped'):
            checkpoint = read_checkpoint(tmp_path / f'{name}.pth')
            assert equal(checkpoint['state_dict'], expected)
            assert set(checkpoint['state_dict']._metadata) == set(expected._metadata)
        assert read_checkpoint(tmp_path / 'mmcv.pth')['meta']['CLASSES'] == ('car', )

    def test_addresses_that_end_alike_have_weights_of_their_own(self, tmp_path, monkeypatch):
        """Downloads are counted, and come from here: tests use no network."""
        downloaded = []

        def download(address, file, progress):
            downloaded.append(address)
            torch.save({'weight': torch.full((1, ), float(len(downloaded)))}, file)

        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
        monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
        for _ in range(2):
            for number, folder in enumerate(('a', 'b'), start=1):
                weights = read_checkpoint(f'https://example.org/{folder}/tiny.pth?download=1')['state_dict']
                assert weights['weight'].item() == number
        assert len(downloaded) == 2

    def test_an_address_that_does_not_answer(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
        with pytest.raises(ValueError, match='https://127.0.0.1:9/tiny.pth cannot be downloaded'):
            read_checkpoint('https://127.0.0.1:9/tiny.pth')

    def test_missing_file(self):
        with pytest.raises(FileNotFoundError, match='checkpoint not found: ckpts/no.pth'):
            read_checkpoint('ckpts/no.pth')

    def test_code_runs_only_when_the_file_is_trusted(self, tmp_path):
        trace = tmp_path / 'trace'
        torch.save(dict(state_dict=TinyDetector().state_dict(), meta=RunsCode(trace)), tmp_path / 'bad.pth')
        with pytest.raises(ValueError, match=r'bad.pth .*\(posix.mkdir\).*--trust-checkpoint'):
            read_checkpoint(tmp_path / 'bad.pth')
        assert not trace.exists()
        read_checkpoint(tmp_path / 'bad.pth', trusted=True)
        assert trace.exists()

    def test_numpy_numbers_need_trust(self, tmp_path):
        checkpoint = dict(state_dict=TinyDetector().state_dict(), meta=dict(best_score=np.float64(0.5)))
        torch.save(checkpoint, tmp_path / 'old.pth')
        with pytest.raises(ValueError, match=r'numpy.*--trust-checkpoint'):
            read_checkpoint(tmp_path / 'old.pth')
        assert read_checkpoint(tmp_path / 'old.pth', trusted=True)['meta']['best_score'] == 0.5

    @pytest.mark.parametrize('trusted', [True, False])
    @pytest.mark.parametrize('keep', [0, 10, 1000])
    def test_truncated_file(self, tmp_path, keep, trusted):
        torch.save(TinyDetector().state_dict(), tmp_path / 'whole.pth')
        (tmp_path / 'part.pth').write_bytes((tmp_path / 'whole.pth').read_bytes()[:keep])
        with pytest.raises(ValueError, match='part.pth .*damaged'):
            read_checkpoint(tmp_path / 'part.pth', trusted=trusted)

    @pytest.mark.parametrize('trusted', [True, False])
    @pytest.mark.parametrize('change, message', [
        (lambda name, data: [(name, data[:-4])], 'record 0 has 124 of 128 bytes'),
        (lambda name, data: [(name, b'')], 'record 0 has 0 of 128 bytes'),
        (lambda name, data: [], 'record 0 has no of 128 bytes'),
        (lambda name, data: [(name, data), (name, data)], 'holds records twice: whole/data/0')])
    def test_a_record_that_is_not_as_long_as_its_tensor(self, tmp_path, change, message, trusted):
        """torch 2.9 fills what is missing with whatever lies in memory."""
        torch.save(TinyDetector().state_dict(), tmp_path / 'whole.pth')
        with zipfile.ZipFile(tmp_path / 'whole.pth') as whole, zipfile.ZipFile(tmp_path / 'bad.pth', 'w') as bad:
            for name in whole.namelist():
                data = whole.read(name)
                for new_name, new_data in change(name, data) if name == 'whole/data/0' else [(name, data)]:
                    bad.writestr(new_name, new_data)
        with pytest.raises(ValueError, match=f'bad.pth is damaged: .*{message}'):
            read_checkpoint(tmp_path / 'bad.pth', trusted=trusted)

    def test_the_sizes_are_read_without_running_code(self, tmp_path):
        content = dict(state_dict=TinyDetector().state_dict(), meta=RunsCode(tmp_path / 'trace'))
        torch.save(content, tmp_path / 'bad.pth')
        check_storage_records(tmp_path / 'bad.pth')
        assert not (tmp_path / 'trace').exists()

    @pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.bool, torch.int64, torch.uint16,
                                       torch.float8_e4m3fn, torch.complex64])
    def test_whole_records_of_all_kinds_pass(self, tmp_path, dtype):
        values = torch.zeros(2, 5).to(dtype)
        torch.save({'a': values, 'view': values[1], 'empty': values[:0].clone()}, tmp_path / 'whole.pth')
        assert set(read_checkpoint(tmp_path / 'whole.pth')['state_dict']) == {'a', 'view', 'empty'}

    def test_damaged_bytes_raise_nothing_but_the_documented_error(self, tmp_path):
        torch.save(dict(state_dict=TinyDetector().state_dict(), meta=dict(epoch=1)), tmp_path / 'whole.pth')
        whole, draw = (tmp_path / 'whole.pth').read_bytes(), np.random.RandomState(0)
        for _ in range(300):
            damaged = bytearray(whole)
            damaged[draw.randint(len(whole))] = draw.randint(256)
            damaged[-1 - draw.randint(400)] = draw.randint(256)  # the table of contents
            (tmp_path / 'part.pth').write_bytes(damaged)
            with contextlib.suppress(ValueError):
                read_checkpoint(tmp_path / 'part.pth')

    @pytest.mark.parametrize('content', [[1, 2], dict(weights=1), dict(state_dict={}), dict(state_dict=dict(a=1))])
    def test_files_without_weights(self, tmp_path, content):
        torch.save(content, tmp_path / 'other.pth')
        with pytest.raises(ValueError, match='other.pth holds no state dict'):
            read_checkpoint(tmp_path / 'other.pth')


class TestLoadWeights:

    def test_fits(self):
        source, model = TinyDetector(), TinyDetector()
        load_weights(MMDataParallel(model), source.state_dict())
        assert equal(model.state_dict(), source.state_dict())

    def test_differences_are_all_listed(self):
        state_dict = TinyDetector().state_dict()
        state_dict['encoder.0.weight'] = torch.zeros(3, 4)
        state_dict['old_name'] = state_dict.pop('encoder.0.bias')
        with pytest.raises(ValueError) as error:
            load_weights(TinyDetector(), state_dict, 'some.pth', router_missing_ok=True, drop_router=True)
        for part in ('some.pth does not fit', 'Missing key(s)', '"encoder.0.bias"', 'Unexpected key(s)', '"old_name"',
                     'size mismatch for encoder.0.weight', '[3, 4]', '[8, 4]'):
            assert part in str(error.value)

    def test_a_baseline_checkpoint_in_a_model_with_router(self, caplog):
        baseline, model = TinyDetector(), TinyDetector(router=True)
        router = {key: value.clone() for key, value in model.state_dict().items() if key in ROUTER_KEYS}
        with pytest.raises(ValueError, match='Missing key.*aqr_router'):
            load_weights(model, baseline.state_dict())
        with caplog.at_level(logging.INFO):
            load_weights(model, baseline.state_dict(), 'cmt.pth', router_missing_ok=True, logger=logging.getLogger())
        assert 'cmt.pth has no router weights' in caplog.text
        assert equal(model.state_dict(), baseline.state_dict() | router)

    def test_a_part_of_the_router_is_not_enough(self):
        model = TinyDetector(router=True)
        state_dict = model.state_dict()
        del state_dict['pts_bbox_head.aqr_router.bias']
        with pytest.raises(ValueError, match='Missing key.*aqr_router.bias'):
            load_weights(model, state_dict, router_missing_ok=True)

    def test_a_router_of_another_kind(self):
        """Either way round; and the training of a new router leaves the old one out, whatever it is."""
        old, new = TinyDetector(router=True), TinyDetector()
        new.pts_bbox_head['aqr_router'] = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 2))
        for source, model in ((old, new), (new, old)):
            with pytest.raises(ValueError, match=r'(?s)routed.pth does not fit.*router is of another kind.*aqr_router'):
                load_weights(model, source.state_dict(), 'routed.pth', router_missing_ok=True)
            own = {key: value.clone() for key, value in model.state_dict().items() if '.aqr_' in key}
            load_weights(model, source.state_dict(), 'routed.pth', new_router=True)
            expected = {key: value for key, value in source.state_dict().items() if '.aqr_' not in key}
            assert equal(dict(model.state_dict()), expected | own)

    def test_a_router_checkpoint_in_a_model_without(self, caplog):
        source, model = TinyDetector(router=True), TinyDetector()
        with pytest.raises(ValueError, match=r'(?s)Unexpected key.*aqr_router.*--drop-router'):
            load_weights(model, source.state_dict(), router_missing_ok=True, drop_router=False)
        with pytest.raises(ValueError, match='Unexpected key.*aqr_router') as error:  # a tool without that option
            load_weights(model, source.state_dict(), router_missing_ok=True)
        assert 'drop' not in str(error.value)
        with caplog.at_level(logging.INFO):
            load_weights(model, source.state_dict(), 'aqr.pth', drop_router=True, logger=logging.getLogger())
        assert 'dropped 2 router weights of aqr.pth' in caplog.text
        assert equal(model.state_dict(), {k: v for k, v in source.state_dict().items() if k not in ROUTER_KEYS})
        assert ROUTER_KEYS < set(source.state_dict())

    def test_modules_that_may_be_missing(self, caplog):
        source, model = TinyDetector(), TinyDetector(router=True)
        state_dict = source.state_dict()
        del state_dict['pts_bbox_head.reg.bias']
        expected = model.state_dict()['pts_bbox_head.reg.bias'].clone()
        with pytest.raises(ValueError, match='Missing key.*reg.bias'):
            load_weights(model, state_dict, missing_ok=['pts_bbox_head.aqr_router', 'pts_bbox_head.re'])
        with caplog.at_level(logging.INFO):
            load_weights(model, state_dict, 'cmt.pth', missing_ok=['pts_bbox_head'], logger=logging.getLogger())
        assert 'cmt.pth lacks weights that stay as initialized: pts_bbox_head.reg.bias' in caplog.text
        assert 'the router stays' in caplog.text
        assert torch.equal(model.pts_bbox_head['reg'].bias, expected)
        assert torch.equal(model.encoder[0].weight, source.encoder[0].weight)

    def test_auxiliary_heads_may_be_missing(self, caplog):
        """They serve training only: published checkpoints do without them."""
        source, model = TinyDetector(), TinyDetector()
        model.auxiliary_heads = nn.ModuleDict(dict(bev=nn.Linear(2, 2)))
        expected = model.auxiliary_heads['bev'].weight.clone()
        with caplog.at_level(logging.INFO):
            load_weights(model, source.state_dict(), 'published.pth', logger=logging.getLogger())
        assert 'published.pth lacks auxiliary heads, which serve training alone: bev' in caplog.text
        assert 'stay as initialized' not in caplog.text
        assert torch.equal(model.auxiliary_heads['bev'].weight, expected)
        assert torch.equal(model.encoder[0].weight, source.encoder[0].weight)
        with pytest.raises(ValueError, match='Unexpected key.*auxiliary_heads.bev'):
            load_weights(TinyDetector(), model.state_dict())

    @pytest.mark.parametrize('metadata', [True, False])
    def test_missing_sparse_convolutions_stay_as_they_are(self, metadata):
        """In a file without version metadata those that are there are permuted, those that are not must not be."""

        def sparse():
            return nn.ModuleDict(
                {name: make_sparse_convmodule(3, 3, 3, 'key', norm_cfg=dict(type='BN1d')) for name in 'ab'})

        model, state_dict = sparse(), sparse().state_dict()
        for key in [key for key in state_dict if key.startswith('b')]:
            del state_dict[key]
            state_dict._metadata.pop(key.rpartition('.')[0], None)
        expected = model['b'][0].weight.detach().clone()
        load_weights(model, state_dict if metadata else OrderedDict(state_dict), missing_ok=['b'])
        assert torch.equal(model['b'][0].weight, expected)

    def test_sparse_convolutions_keep_their_weights_on_the_way_through_files(self, tmp_path):
        """With 3 input and 3 output channels a kernel of 3 has a shape that survives the wrong axis order unnoticed."""

        def sparse():
            return nn.Sequential(make_sparse_convmodule(3, 3, 3, 'key', norm_cfg=dict(type='BN1d')))

        source = sparse()
        torch.save(MMDataParallel(source).state_dict(), tmp_path / 'wrapped.pth')
        save_checkpoint(source, str(tmp_path / 'mmcv.pth'))
        for name in ('wrapped', 'mmcv'):
            model = sparse()
            load_weights(model, read_checkpoint(tmp_path / f'{name}.pth')['state_dict'])
            assert equal(model.state_dict(), source.state_dict())

    def test_missing_version_metadata_is_named_where_shapes_differ(self):
        model = make_sparse_convmodule(4, 8, 3, 'key', norm_cfg=dict(type='BN1d'))
        with pytest.raises(ValueError, match='(?s)size mismatch.*no version metadata.*spconv 1.x'):
            load_weights(model, OrderedDict(model.state_dict()))


    @pytest.mark.parametrize('load', [load_weights, load_pretrained])
    def test_numbers_that_no_model_can_use(self, load):
        model, state_dict = TinyDetector(), TinyDetector().state_dict()
        state_dict['encoder.0.weight'][0, 0] = float('nan')
        state_dict['pts_bbox_head.reg.bias'][0] = float('-inf')
        state_dict['encoder.1.running_var'][0] = -1e-3
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(ValueError) as error:
            load(model, state_dict, 'some.pth')
        for part in ('some.pth', 'NaN or infinite: encoder.0.weight, pts_bbox_head.reg.bias',
                     'negative variances: encoder.1.running_var'):
            assert part in str(error.value)
        assert equal(model.state_dict(), before)

    def test_the_copies_of_an_ema_hook_are_left_out(self, caplog):
        source, model = TinyDetector(), TinyDetector()
        state_dict = source.state_dict()
        for name, value in source.named_parameters():
            state_dict[f'ema_{name.replace(".", "_")}'] = torch.zeros_like(value)
        with caplog.at_level(logging.INFO):
            load_weights(model, state_dict, 'ema.pth', logger=logging.getLogger())
        assert 'ema.pth was written with an EMA hook' in caplog.text and 'the 6 that' in caplog.text
        assert equal(model.state_dict(), source.state_dict())
        state_dict['ema_other'] = torch.zeros(1)
        with pytest.raises(ValueError, match='Unexpected key.*"ema_other"'):
            load_weights(model, state_dict)


class TestLoadPretrained:

    def test_what_fits_is_loaded_and_the_rest_logged(self, caplog):
        source, model = TinyDetector(width=16), TinyDetector()
        state_dict = source.state_dict()
        state_dict['encoder.0.weight'] = torch.full((8, 4), 2.)
        with caplog.at_level(logging.INFO):
            load_pretrained(MMDataParallel(model), state_dict, 'nuim.pth', logging.getLogger())
        assert (model.encoder[0].weight == 2).all()
        assert 'size mismatch for encoder.0.bias' in caplog.text and 'loaded 3 of 9 weights of nuim.pth' in caplog.text

    def test_all_that_train_only_freezes_must_be_there(self, caplog):
        model = TinyDetector(router=True, train_only=['pts_bbox_head.aqr_router'])
        with caplog.at_level(logging.INFO):
            load_pretrained(MMDataParallel(model), TinyDetector().state_dict(), 'cmt.pth', logging.getLogger())
        assert 'the router stays as initialized' in caplog.text

        state_dict = TinyDetector().state_dict()
        del state_dict['encoder.1.running_mean'], state_dict['pts_bbox_head.reg.bias']
        state_dict['other.weight'] = torch.zeros(1)
        with pytest.raises(ValueError) as error:
            load_pretrained(model, state_dict, 'other.pth')
        for part in ('other.pth does not fit', 'Missing key(s)', '"encoder.1.running_mean"', '"pts_bbox_head.reg.bias"',
                     'Unexpected key(s)', '"other.weight"'):
            assert part in str(error.value)
        assert 'aqr_router' not in str(error.value) and 'drop' not in str(error.value)

        load_pretrained(model, TinyDetector(router=True).state_dict())
        with pytest.raises(ValueError, match='size mismatch for encoder.0.weight'):
            load_pretrained(model, TinyDetector(width=4).state_dict())

    def test_nothing_fits(self):
        with pytest.raises(ValueError, match=r"none of the 1 weights of other.pth .*\['backbone'\].*'encoder'"):
            load_pretrained(TinyDetector(), {'backbone.weight': torch.zeros(1)}, 'other.pth')
