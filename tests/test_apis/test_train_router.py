"""The plug-in training: evidence is kept, an interruption costs little, and nothing but the router changes."""
import shutil

import mmcv
import numpy as np
import pytest
import torch
from mmcv.parallel import collate
from mmdet3d.datasets import build_dataset
from mmdet3d.models import build_model

from projects.mmdet3d_plugin.apis import build_trained_model, load_config, train_router
from projects.mmdet3d_plugin.apis.router_evidence import EvidenceStore, collect_evidence, looks_of, targets_of
from projects.mmdet3d_plugin.apis.train_router import margins, verdicts
from projects.mmdet3d_plugin.datasets.other_samples import scene_numbers
from projects.mmdet3d_plugin.datasets.sensor_failures import FailureCase
from projects.mmdet3d_plugin.models.detectors import CmtDetector
from projects.mmdet3d_plugin.utils.record_file import read_record


@pytest.fixture(scope='module')
def options(synthetic_nuscenes):
    infos = {f'data.{split}.ann_file': str(synthetic_nuscenes / f'nuscenes_infos_{split}.pkl')
             for split in ('train', 'val')}
    return {'data.train.data_root': f'{synthetic_nuscenes}/', 'load_from': None, 'data.samples_per_gpu': 3,
            'router_training.samples': 11, 'router_training.iters': 4, 'router_training.batch': 3,
            'router_training.held_out': 0.3, 'log_config.interval': 1, **infos}


@pytest.fixture(scope='module')
def make_cfg(repo_root, options):
    def make(work_dir, **others):
        cfg = load_config(repo_root / 'configs/cmt_aqr_plug_in_synthetic.py', {**options, **others})
        cfg.work_dir = str(work_dir)
        return cfg

    return make


@pytest.fixture(scope='module')
def checkpoint(make_cfg, tmp_path_factory):
    """A detector as plain CMT's training leaves it: no router."""
    path = tmp_path_factory.mktemp('detector') / 'detector.pth'
    cfg = make_cfg(path.parent)
    torch.manual_seed(0)
    model = build_model(cfg.model)
    model.init_weights()
    weights = {name: value for name, value in model.state_dict().items() if '.aqr_' not in name}
    torch.save(dict(state_dict=weights, meta=dict(CLASSES=tuple(cfg.class_names))), path)
    return path


@pytest.fixture(scope='module')
def trained(make_cfg, checkpoint, tmp_path_factory):
    """(work directory, table) of one training."""
    work_dir = tmp_path_factory.mktemp('router')
    return work_dir, train_router(make_cfg(work_dir), checkpoint, 'plug_in.py', workers=1)


def test_nothing_but_the_router_changes(make_cfg, trained, checkpoint):
    work_dir, _ = trained
    before = torch.load(checkpoint)['state_dict']
    model = build_trained_model(make_cfg(work_dir), str(work_dir / 'latest.pth'))  # fits without missing weights
    after = model.state_dict()
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    router = [name for name in after if '.aqr_router.' in name]
    assert router and not set(router) & set(before)
    assert after['pts_bbox_head.aqr_router.verdict.3.weight'].abs().max() > 0  # where it starts
    assert after['pts_bbox_head.aqr_router.familiar_limit'] > 0


def test_what_it_leaves(trained):
    work_dir, table = trained
    assert (work_dir / 'router.md').read_text() == f'{table}\n' and 'AUROC LiDAR' in table
    assert "share of that sensor's attention that is taken" in table
    log, = work_dir.glob('*.log')
    assert log.read_text().count('loss_aqr: ') == 4
    assert list((work_dir / 'tf_logs').iterdir()) and list(work_dir.glob('*.log.json'))
    assert not (work_dir / 'run.lock').exists()


def test_the_detector_looks_once(make_cfg, trained, checkpoint, monkeypatch):
    """Another learning rate finds the evidence; another detector or other failures must not."""
    work_dir, table = trained
    looked = []
    original = CmtDetector.extract_feat
    monkeypatch.setattr(CmtDetector, 'extract_feat', lambda *args: looked.append(1) or original(*args))
    train_router(make_cfg(work_dir, **{'router_training.lr': 1e-2}), checkpoint, 'plug_in.py', workers=1)
    assert not looked
    for other in ({'router_training.samples': 12}, {'data.train.pipeline.4.seed': 1}):
        with pytest.raises(ValueError, match='holds evidence of another detector, other data or settings'):
            train_router(make_cfg(work_dir, **other), checkpoint, 'plug_in.py', workers=1)


def test_an_interruption_changes_nothing(make_cfg, trained, checkpoint, tmp_path):
    """Nor does the number of workers: rows depend on their number and the seed."""
    work_dir, _ = trained
    cfg = make_cfg(tmp_path)
    model = build_trained_model(cfg, str(checkpoint))
    dataset = build_dataset(cfg.data.train)

    class Interrupted(EvidenceStore):
        def append(self, case, arrays):
            if len(self) == 7:
                raise KeyboardInterrupt
            super().append(case, arrays)

    with pytest.raises(KeyboardInterrupt):
        collect_evidence(model, dataset, Interrupted(tmp_path / 'evidence', 11, 'key'), 0, 0, 2, 3, benefits=True)
    store = EvidenceStore(tmp_path / 'evidence', 11, 'key')
    assert len(store) == 6  # what was saved
    collect_evidence(model, dataset, store, 0, 2, 3, benefits=True)
    whole = [np.load(path) for path in sorted((work_dir / 'evidence').glob('*.npy'))]
    resumed = [np.load(path) for path in sorted((tmp_path / 'evidence').glob('*.npy'))]
    assert len(whole) == len(resumed) == 13
    for one, other in zip(whole, resumed):
        if one.dtype.kind == 'f':  # batches of other sizes round otherwise
            np.testing.assert_allclose(other, one, rtol=0.01, atol=0.01)
        else:
            np.testing.assert_array_equal(other, one)


def test_evidence_is_what_the_head_judges_by(make_cfg, trained, checkpoint):
    """The verdict on kept rows is that of the whole detector on the same samples."""
    work_dir, _ = trained
    cfg = make_cfg(work_dir)
    model = build_trained_model(cfg, str(work_dir / 'latest.pth'))
    torch.nn.init.normal_(model.pts_bbox_head.aqr_router.verdict[-1].weight, std=0.1)
    torch.nn.init.zeros_(model.pts_bbox_head.aqr_router.familiar_limit)
    dataset = build_dataset(cfg.data.train)
    np.random.seed(1)
    batch = collate([dataset[0], dataset[1]], samples_per_gpu=2)
    points, img, metas = (batch[name].data[0] for name in ('points', 'img', 'img_metas'))
    head = model.pts_bbox_head
    with torch.no_grad():
        img_feats, pts_feats = model.extract_feat(points, img, metas)
        blank = model.blank_features(points, img, metas)
        routing = head(pts_feats, img_feats, metas, blank)[0][0]['routing']
        evidence = head.router_evidence(head.embed_scene(pts_feats, img_feats, metas, blank), metas)
        seen = evidence.projections.pts_pers_valid
        weights = head.aqr_router.weigh(evidence.looks, seen, torch.ones_like(seen[..., 0]))
    assert routing.lidar_weights.std() > 1e-4
    torch.testing.assert_close(weights.unbind(-1), (routing.lidar_weights, routing.camera_weights))


def test_verdicts_by_case(make_cfg, trained):
    work_dir, _ = trained
    model = build_trained_model(make_cfg(work_dir), str(work_dir / 'latest.pth'))
    last = model.pts_bbox_head.aqr_router.verdict[-1]
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([-50.0, 50.0]))  # no LiDAR anywhere
        model.pts_bbox_head.aqr_router.familiar_limit.zero_()
    record = EvidenceStore(work_dir / 'evidence', 11, _key(work_dir))
    table = verdicts(model, record, range(len(record)), 4)
    assert [row['samples'] for row in table if row['case'] == 'all'] == [11] and 'pays LiDAR' not in table[0]
    assert sum(row['samples'] for row in table) == 22 and {row['case'] for row in table} == {*record.cases, 'all'}
    for row in table:
        assert row['LiDAR'] == pytest.approx(1 - np.exp(-1.5)) and row['cameras'] == 0
        for sensor in ('LiDAR', 'cameras'):  # all weights alike tell nothing
            assert np.isnan(row[f'AUROC {sensor}']) or row[f'AUROC {sensor}'] == 0.5
    assert looks_of({name: value[None] for name, value in record[0].items()}).lidar_states.shape == (1, 200, 96)


def test_where_distrust_pays_by_counting_pairs(make_cfg, trained):
    """AUROC is the share of pairs in which the place to distrust has the lower weight; ties count half."""
    work_dir, _ = trained
    model = build_trained_model(make_cfg(work_dir), str(work_dir / 'latest.pth'))
    torch.manual_seed(0)
    torch.nn.init.normal_(model.pts_bbox_head.aqr_router.verdict[-1].weight)
    model.pts_bbox_head.aqr_router.familiar_limit.zero_()
    store = EvidenceStore(work_dir / 'evidence', 11, _key(work_dir))
    least = float(np.sort(store.column('benefits')[:, 0])[-4])  # LiDAR's distrust pays in three samples at most
    weights, pays = [], []
    for row in range(11):
        kept = {name: value[None] for name, value in store[row].items()}
        with torch.no_grad():
            say = torch.ones_like(kept['lidar_lost'])
            weights.append(model.pts_bbox_head.aqr_router.weigh(looks_of(kept), kept['seen'], say)[0].numpy())
        pays.append(targets_of(kept, None, least).weights[0].numpy() == 0)
    weights, pays, cases = np.stack(weights), np.stack(pays), np.array(store.cases)
    found = []
    for row in verdicts(model, store, range(11), 4, least):
        mine = np.ones(11, dtype=bool) if row['case'] == 'all' else cases == row['case']
        for sensor, title in enumerate(('LiDAR', 'cameras')):
            wrong = weights[mine, :, sensor][pays[mine, :, sensor]]
            right = weights[..., sensor][(mine | (cases == 'clean'))[:, None] & ~pays[..., sensor]]
            pairs = (wrong[:, None] < right) + 0.5 * (wrong[:, None] == right)
            expected = pairs.mean() if pairs.size else np.nan
            np.testing.assert_allclose(row[f'pays {title}'], expected, atol=1e-6)
            found.append(expected)
    assert np.isfinite(found).any()


@pytest.mark.parametrize('caution', [0.0, 0.1, 0.5])
def test_margins_against_a_loop(make_cfg, trained, tmp_path, caution):
    work_dir, _ = trained
    shutil.copytree(work_dir / 'evidence', tmp_path / 'evidence')
    head = build_trained_model(make_cfg(work_dir), str(work_dir / 'latest.pth')).pts_bbox_head
    torch.manual_seed(0)
    torch.nn.init.normal_(head.aqr_router.verdict[-1].weight, std=5.0)
    head.aqr_router.familiar_limit.zero_()
    store = EvidenceStore(tmp_path / 'evidence', 11, _key(work_dir))
    store.column('benefits')[:] = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32) + [0.3, -0.5]
    samples = [{name: value[None] for name, value in store[row].items()} for row in range(11)]
    bias = head.aqr_router.verdict[-1].bias
    grid, before = np.arange(33) / 4, bias.detach().clone()
    won = np.zeros((33, 2))
    for index, margin in enumerate(grid):
        with torch.no_grad():
            bias.copy_(before + margin)
            for kept in samples:
                say = torch.ones_like(kept['lidar_lost'])
                weights = head.aqr_router.weigh(looks_of(kept), kept['seen'], say)[0].numpy()
                for sensor, lost in enumerate((kept['lidar_lost'][0].numpy(), kept['cameras_lost'][0].numpy())):
                    where = lost if lost.any() else np.ones_like(lost)
                    taken = 1 - np.clip(2 * weights[where, sensor], np.exp(-1.5), 1)
                    won[index, sensor] += taken.mean() * kept['benefits'][0, sensor].item()
    with torch.no_grad():
        bias.copy_(before)
    most = won.max(axis=0)
    expected = [grid[won[:, sensor] >= most[sensor] - caution * abs(most[sensor]) - 1e-6].max() for sensor in range(2)]
    assert margins(head, store, range(11), 4, caution) == pytest.approx(expected)
    assert torch.equal(bias, before) and (caution == 0 or max(expected) > 0)


def test_a_router_is_as_cautious_as_it_says(make_cfg, trained):
    work_dir, table = trained
    model = build_trained_model(make_cfg(work_dir), str(work_dir / 'latest.pth'))
    head, raised = model.pts_bbox_head, read_record(work_dir / 'router.json')['margins']
    assert 'Caution: logits were raised by {:.2f} (LiDAR) and {:.2f} (cameras).'.format(*raised) in table
    with torch.no_grad():
        head.aqr_router.verdict[-1].bias -= torch.tensor(raised)
    store = EvidenceStore(work_dir / 'evidence', 11, _key(work_dir))
    scenes = scene_numbers(build_dataset(make_cfg(work_dir).data.train))[store.column('sample')]
    held_out = [row for row in range(11) if scenes[row] in _held_out_scenes(scenes)]
    assert margins(head, store, held_out, 3, 0.1) == pytest.approx(raised) and max(raised) > 0


def _held_out_scenes(scenes):
    known = np.unique(scenes)
    count = min(max(round(0.3 * len(known)), 1), len(known) - 1)
    return np.random.default_rng((0, 1)).permutation(known)[:count]


def test_a_router_that_judges_view_by_view(make_cfg, checkpoint, tmp_path):
    options = {'model.pts_bbox_head.aqr_router.per_view': True, 'model.pts_bbox_head.aqr_per_view': True}
    cfg = make_cfg(tmp_path, **options)
    simulate, = (step for step in cfg.data.train.pipeline if step['type'] == 'SimulateFailure')
    simulate['cases'] = {'view_drop:CAM_FRONT,CAM_BACK': 0.5, 'clean': 0.5}
    train_router(cfg, checkpoint, 'plug_in.py', workers=1)
    store = EvidenceStore(tmp_path / 'evidence', 11, _key(tmp_path))
    lost = [tuple(row) for row in store.column('views_lost').tolist()]
    assert all(sum(views) == 2 * (case != 'clean') for views, case in zip(lost, store.cases))
    assert len(set(lost)) == len(set(store.cases)) == 2
    head = build_trained_model(cfg, str(tmp_path / 'latest.pth')).pts_bbox_head
    assert head.aqr_router.verdict[-1].weight.abs().max() > 0
    kept = {name: value[None] for name, value in store[0].items()}
    weights = head.aqr_router.weigh(looks_of(kept), kept['seen'], torch.ones_like(kept['lidar_lost']))
    assert weights.shape == (1, 200, 7)
    with pytest.raises(ValueError, match='holds evidence of another detector'):  # whose benefits are of another bias
        train_router(make_cfg(tmp_path), checkpoint, 'plug_in.py', workers=1)


def _key(work_dir):
    return read_record(work_dir / 'evidence/evidence.json')['key']


def _retrained(make_cfg, trained, checkpoint, folder, garbage=(), **options):
    """A router's weights from a copy of the evidence, some rows of which hold garbage: those that learn, and those that
    say what is familiar.
    """
    work_dir, _ = trained
    shutil.copytree(work_dir / 'evidence', folder / 'evidence')
    store = EvidenceStore(folder / 'evidence', 11, _key(work_dir))
    store.column('lidar_states')[list(garbage)] = 3.0
    store.column('benefits')[list(garbage)] = 50.0
    train_router(make_cfg(folder, **options), checkpoint, 'plug_in.py', workers=1)
    weights = torch.load(folder / 'latest.pth', weights_only=False)['state_dict']
    weights = {name: value.flatten() for name, value in weights.items() if '.aqr_router.' in name}
    return tuple(torch.cat([value for name, value in weights.items() if ('familiar' in name) == is_familiar])
                 for is_familiar in (False, True))


def test_what_is_left_out_teaches_nothing(make_cfg, trained, checkpoint, tmp_path):
    """Garbage in its rows changes a router that learns from them, and no number of one that does not."""
    work_dir, _ = trained
    cases = EvidenceStore(work_dir / 'evidence', 11, _key(work_dir)).cases
    kinds = FailureCase.parse(next(case for case in cases if case != 'clean')).kinds
    left_out = [row for row, case in enumerate(cases) if set(kinds) & set(FailureCase.parse(case).kinds)]
    assert 0 < len(left_out) < 11
    options = {'router_training.leave_out': list(kinds)}
    learned, familiar = _retrained(make_cfg, trained, checkpoint, tmp_path / 'clean', **options)
    others = _retrained(make_cfg, trained, checkpoint, tmp_path / 'garbage', left_out, **options)
    assert torch.equal(learned, others[0]) and torch.equal(familiar, others[1])
    taught = _retrained(make_cfg, trained, checkpoint, tmp_path / 'taught', left_out)
    assert not torch.equal(taught[0], learned) and not torch.equal(taught[1], familiar)


def test_verdicts_of_held_out_scenes_are_not_learned(make_cfg, trained, checkpoint, tmp_path):
    work_dir, _ = trained
    scenes = scene_numbers(build_dataset(make_cfg(work_dir).data.train))
    scenes = scenes[EvidenceStore(work_dir / 'evidence', 11, _key(work_dir)).column('sample')]
    held_out = [row for row in range(11) if scenes[row] in _held_out_scenes(scenes)]
    options = {'router_training.caution': 0.0}
    learned, familiar = _retrained(make_cfg, trained, checkpoint, tmp_path / 'clean', **options)
    others = _retrained(make_cfg, trained, checkpoint, tmp_path / 'garbage', held_out, **options)
    assert torch.equal(learned, others[0]) and not torch.equal(familiar, others[1])


def test_too_few_samples(make_cfg, checkpoint, tmp_path):
    cfg = make_cfg(tmp_path, **{'router_training.samples': 2, 'router_training.leave_out': ['glare']})
    simulate, = (step for step in cfg.data.train.pipeline if step['type'] == 'SimulateFailure')
    simulate['cases'] = {'glare@3': 1 - 1e-9, 'clean': 1e-9}
    with pytest.raises(ValueError, match=r"samples=2 are too few: held_out=0.3 and leave_out=\['glare'\] leave 0 to "
                                         'learn from and 0 to set the margins'):
        train_router(cfg, checkpoint, 'plug_in.py', workers=1)


@pytest.mark.parametrize('change', ['info file', 'targets'])
def test_evidence_of_other_data_or_targets(make_cfg, checkpoint, options, tmp_path, change):
    """An info file of the same name with other contents, and the other way to say what is known."""
    path = tmp_path / 'infos.pkl'
    infos = mmcv.load(options['data.train.ann_file'])
    mmcv.dump(infos, path)
    settings = {'data.train.ann_file': str(path), 'router_training.least_benefit': None, 'router_training.caution': 0.0,
                'router_training.samples': 2, 'router_training.iters': 1}
    train_router(make_cfg(tmp_path / 'run', **settings), checkpoint, 'plug_in.py', workers=1)
    if change == 'info file':
        mmcv.dump(dict(infos, infos=infos['infos'][::-1]), path)
    else:
        settings['model.pts_bbox_head.aqr_targets'] = 'preference'
    with pytest.raises(ValueError, match='holds evidence of another detector, other data or settings'):
        train_router(make_cfg(tmp_path / 'run', **settings), checkpoint, 'plug_in.py', workers=1)


def test_refusals_before_anything_is_written(make_cfg, checkpoint, tmp_path):
    for others, message in (
            ({'model.pts_bbox_head.aqr_router.type': 'AQRWeightGenerator'}, 'AQRWeightGenerator: tools/train.py'),
            ({'router_training.iters': 0}, r'router_training.iters must be an integer >= 1'),
            ({'router_training.held_out': 1.0}, r'router_training.held_out must be in \[0, 1\)'),
            ({'router_training.caution': 1.0}, r'router_training.caution must be in \[0, 1\), got 1'),
            ({'router_training.caution': -0.1}, r'router_training.caution must be a finite number >= 0, got -0.1'),
            ({'router_training.leave_out': 'glare'}, "leave_out='glare' must be a list of names of failures"),
            ({'router_training.leave_out': ['glare@3']}, r"leave_out=\['glare@3'\] must be a list of names"),
            ({'router_training.leave_out': [['glare']]}, r"leave_out=\[\['glare'\]\] must be a list of names"),
            ({'router_training.leave_out': None}, 'leave_out=None must be a list of names'),
            ({'router_training.samples': 1}, 'router_training.samples must be an integer >= 2, got 1'),
            ({'router_training.held_out': False}, 'router_training.held_out must be a finite number >= 0, got False'),
            ({'router_training': 3}, 'router_training must be a dict of .*got 3'),
            ({'router_training.least_benefit': None, 'router_training.caution': 0.0,
              'model.pts_bbox_head.aqr_weight_map': 'monotone'}, "'monotone' is learned from detections"),
            ({'router_training.leave_out': ['glare', 'phantoms']}, 'must name failures that data.train draws'),
            ({'router_training.leave_out': ['glare'], 'data.train.pipeline.4.cases': 'glare@3'}, 'and leave some case'),
            ({'router_training.held_out': 0.0}, 'router_training.caution weighs benefits in held-out scenes'),
            ({'router_training.least_benefit': None}, 'it needs least_benefit and held_out > 0, got None and 0.3')):
        with pytest.raises(ValueError, match=message):
            train_router(make_cfg(tmp_path / 'run', **others), checkpoint, 'plug_in.py')
    assert not (tmp_path / 'run').exists()
