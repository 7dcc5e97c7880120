"""What distrust of a sensor would win in a sample, against decoding it sample by sample with a bias by hand."""
import numpy as np
import pytest
import torch
from mmcv.parallel import collate
from mmdet3d.datasets import build_dataset

from projects.mmdet3d_plugin.apis import build_trained_model, load_config, train_router
from projects.mmdet3d_plugin.apis.distrust_benefits import distrust_benefits
from projects.mmdet3d_plugin.models.utils.aqr.query_projection import project_queries
from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias


@pytest.fixture(scope='module')
def make_cfg(repo_root, synthetic_nuscenes):
    infos = {f'data.{split}.ann_file': str(synthetic_nuscenes / f'nuscenes_infos_{split}.pkl')
             for split in ('train', 'val')}

    def make(work_dir=None, **others):
        options = {'data.train.data_root': f'{synthetic_nuscenes}/', 'load_from': None, **infos, **others}
        cfg = load_config(repo_root / 'configs/cmt_aqr_plug_in_synthetic.py', options)
        cfg.work_dir = str(work_dir)
        return cfg

    return make


@pytest.fixture(scope='module')
def model(make_cfg, repo_root):
    model = build_trained_model(make_cfg(), str(repo_root / 'checkpoints/cmt_synthetic.pth'), new_router=True)
    return model.eval()


@torch.no_grad()
def features(model, dataset, indices):
    batch = collate([dataset[index] for index in indices], samples_per_gpu=len(indices))
    points, img, metas = (batch[name].data[0] for name in ('points', 'img', 'img_metas'))
    img_feats, pts_feats = model.extract_feat(points, img, metas)
    return (pts_feats, img_feats, model.blank_features(points, img, metas)), metas


@torch.no_grad()
def loss_by_hand(head, feats, meta, weights):
    """Last layer's loss of one sample, whose bias of every query is written down segment by segment."""
    pts_feats, img_feats, blank_feats = feats
    scene = head.embed_scene(pts_feats, img_feats, [meta], blank_feats)
    shapes = head.aqr_bias.segment_shapes(scene.layout.bev_shape, scene.layout.view_shape)
    values = torch.zeros(1, len(weights), len(shapes))
    values[0, :, 0][weights[:, 0] == 0] = -head.aqr_bias.bias_strength
    values[0, :, 1:][weights[:, 1] == 0] = -head.aqr_bias.bias_strength
    decoded, _ = scene.decode(scene.x, scene.x_img, stand_ins=scene.stand_ins,
                              aqr_attention_bias=AttentionBias(values, shapes))
    preds = tuple([head._predict_task(task, decoded, scene.reference_points, None, None)] for task in head.task_heads)
    losses = head.loss([meta['gt_bboxes_3d'].data], [meta['gt_labels_3d'].data], preds)
    return (losses['loss_cls'] + losses['loss_bbox']).item()


@pytest.mark.parametrize('has_looked', [False, True])
def test_against_each_sample_by_itself(make_cfg, model, has_looked):
    head = model.pts_bbox_head
    dataset = build_dataset(make_cfg().data.train)
    feats, metas = features(model, dataset, [0, 1])
    reference = head.reference_points.weight.detach().expand(2, -1, -1)
    with torch.no_grad():
        scene = head.embed_scene(*feats[:2], metas, feats[2])
        if has_looked:  # what the first layer made then serves all decodings
            head.router_evidence(scene, metas)
    projections = project_queries(reference, metas, head.pc_range, head.bev_cell_size, scene.layout)
    places = torch.from_numpy(np.random.default_rng(0).random((2, head.num_query, 2)) < 0.7)
    router = head.aqr_router
    benefits = distrust_benefits(head, scene, metas, projections, places)
    assert head.aqr_router is router and benefits.shape == (2, 2) and benefits.abs().min() > 1e-5
    views = len(feats[1][0]) // 2
    for sample, meta in enumerate(metas):
        own = slice(sample, sample + 1), slice(sample * views, (sample + 1) * views)
        mine = ([feats[0][0][own[0]]], [feats[1][0][own[1]]], ([feats[2][0][0][own[0]]], [feats[2][1][0][own[1]]]))
        neutral = torch.ones(head.num_query, 2)
        expected = []
        for sensor in range(2):
            weights = neutral.clone()
            weights[places[sample, :, sensor], sensor] = 0
            expected.append(loss_by_hand(head, mine, meta, neutral) - loss_by_hand(head, mine, meta, weights))
        np.testing.assert_allclose(benefits[sample], expected, atol=2e-4)


def test_a_failing_pass_gives_the_router_back(make_cfg, model):
    head = model.pts_bbox_head
    router = head.aqr_router
    feats, metas = features(model, build_dataset(make_cfg().data.train), [0])
    scene = head.embed_scene(*feats[:2], metas, feats[2])
    places = torch.ones(1, head.num_query, 2, dtype=torch.bool)
    with pytest.raises(AttributeError):
        distrust_benefits(head, scene, metas, None, places)
    assert head.aqr_router is router
    meta = {name: value for name, value in metas[0].items() if name != 'gt_labels_3d'}
    with pytest.raises(ValueError, match=r"Collect3D has not \['gt_labels_3d'\] among its meta_keys"):
        distrust_benefits(head, scene, [meta], None, places)


def test_a_lidar_of_another_scene_had_better_be_distrusted(make_cfg, repo_root, tmp_path):
    """On the trained baseline; distrust of the cameras would cost there. The router learns from these rows."""
    cfg = make_cfg(tmp_path, router_training=dict(samples=6, iters=2, batch=2, held_out=0.3, least_benefit=0.02))
    simulate, = (step for step in cfg.data.train.pipeline if step['type'] == 'SimulateFailure')
    simulate['cases'] = {'stale_lidar@3': 1.0}
    checkpoint = str(repo_root / 'checkpoints/cmt_synthetic.pth')
    train_router(cfg, checkpoint, 'plug_in.py', workers=1)
    benefits, touched = (np.load(tmp_path / f'evidence/{name}.npy') for name in ('benefits', 'touched'))
    assert benefits.shape == touched.shape == (6, 2)
    assert (benefits[:, 0] > 0.1).all() and (benefits[:, 1] < 0).all()
    assert touched.tolist() == [[True, False]] * 6
    cfg.router_training.update(least_benefit=None, caution=0.0)  # the same folder with rows of another kind
    with pytest.raises(ValueError, match='holds evidence of another detector, other data or settings'):
        train_router(cfg, checkpoint, 'plug_in.py', workers=1)


@pytest.mark.parametrize('least', [-0.1, float('nan'), 'much'])
def test_a_least_benefit_that_is_none(make_cfg, repo_root, tmp_path, least):
    cfg = make_cfg(tmp_path / 'run', router_training=dict(least_benefit=least))
    with pytest.raises((ValueError, TypeError), match='router_training.least_benefit'):
        train_router(cfg, str(repo_root / 'checkpoints/cmt_synthetic.pth'), 'plug_in.py')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('options, message', [
    (dict(aqr_targets='preference'), "least_benefit needs model.pts_bbox_head.aqr_targets='trust'.*'preference'"),
    (dict(aqr_weight_map='linear'), "needs .* such as aqr_weight_map='log_gate'.* got 'trust' and 'linear'"),
    (dict(aqr_weight_map='monotone'), "got 'trust' and 'monotone'")])
def test_targets_that_do_not_go_with_it(make_cfg, repo_root, tmp_path, options, message):
    cfg = make_cfg(tmp_path / 'run', **{f'model.pts_bbox_head.{name}': value for name, value in options.items()})
    with pytest.raises(ValueError, match=message):
        train_router(cfg, str(repo_root / 'checkpoints/cmt_synthetic.pth'), 'plug_in.py')
    assert not (tmp_path / 'run').exists()
