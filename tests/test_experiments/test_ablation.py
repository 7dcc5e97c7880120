"""The experiment with real trainings of four iterations: what is finished is kept, tables say what the records hold."""
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from projects.mmdet3d_plugin.apis import load_config
from projects.mmdet3d_plugin.evaluation.detection_matches import DetectionMatches, mean_ap
from projects.mmdet3d_plugin.experiments.ablation import Ablation, load_plan
from projects.mmdet3d_plugin.utils.record_file import read_record

ARM_NAMES = ('failures', 'aqr_global')
CASES = ('clean', 'lidar_drop')


@pytest.fixture(scope='module')
def make_ablation(repo_root, synthetic_nuscenes, tmp_path_factory):
    out = tmp_path_factory.mktemp('ablation')
    options = {'log_config.interval': 1}
    for split, infos in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        options[f'data.{split}.data_root'] = f'{synthetic_nuscenes}/'
        options[f'data.{split}.ann_file'] = str(synthetic_nuscenes / f'nuscenes_infos_{infos}.pkl')

    def make(arms=ARM_NAMES, cases=CASES, plan='sensor_failures', **changes):
        plan = load_plan(repo_root / f'configs/ablations/{plan}.py')
        arguments = dict(baselines={0: str(repo_root / 'checkpoints/cmt_synthetic.pth')}, out=out,
                         configs=repo_root / 'configs', baseline_options=options, arm_options=options, jobs=1)
        return Ablation(plan.select(arms, cases), **{**arguments, **changes})

    return make


def test_from_baseline_to_tables(make_ablation, monkeypatch):
    ablation = make_ablation()
    assert ablation.run() == []
    text = ablation.report()

    record = json.loads((ablation.out / 'ablation.json').read_text())
    results = {arm: read_record(ablation.out / f'{arm}_seed0/result.json')['tests'] for arm in ARM_NAMES}
    for case in CASES:
        score = {arm: mean_ap(DetectionMatches.load(results[arm][case]['learned']['matches'])) for arm in ARM_NAMES}
        interval = record['intervals']['aqr_global'][case]
        assert interval['mean'] == pytest.approx(score['aqr_global'] - score['failures'], abs=1e-9)
        assert interval['low'] <= interval['mean'] <= interval['high']
        title = ablation.plan.arms['aqr_global'].title
        row = next(row for row in record['tables']['mAP'] if row['arm'] == title)
        assert float(row[case]) == pytest.approx(score['aqr_global'], abs=6e-4)
    assert record['seen'] == ['camera_drop', 'clean', 'fov:60', 'lidar_drop', 'object_failure:0.5', 'view_drop:3']
    assert set(results['aqr_global']['lidar_drop']) == {'learned', 'off', 'averaged', 'shuffled', 'oracle'}
    assert set(results['aqr_global']['clean']) == {'learned'}  # nothing was lost that weights could follow
    assert {row['case'] for title, rows in record['tables'].items() if 'Controls' in title for row in rows} == {
        'lidar_drop'}
    assert set(results['failures']['lidar_drop']) == {'learned'}
    where, = record['tables']['Where the differences lie']
    for title, place in {'recall inside': ('recall', 'inside'), 'AP large': ('scores', 'AP large'),
                         'AP at 0.5 m': ('scores', 'AP at 0.5 m')}.items():
        routed, fair = (results[arm]['lidar_drop']['learned'][place[0]][place[1]] for arm in ('aqr_global', 'failures'))
        assert float(where[title]) == pytest.approx(routed - fair, abs=6e-4), title
    assert where['recall outside'] is None  # LiDAR is lost everywhere
    assert '**Controls' in text and 'not comparable with published scores' in text
    assert (ablation.out / 'ablation.png').stat().st_size > 10_000

    # Again: nothing is trained or tested, and the tables stay.
    def marks():
        return {path: path.stat().st_mtime_ns for pattern in ('*.pth', '*/tests/*') for path in
                ablation.out.rglob(pattern)}

    before = marks()
    assert make_ablation().run() == [] and make_ablation().report() == text
    assert marks() == before and len(before) > 10


def test_routers_on_detectors_that_stay(make_ablation, monkeypatch, tmp_path):
    """Arms that train a router or nothing, and that start from another arm; routers share what the detector shows."""
    arms = 'untouched', 'plug_in', 'no_stand_ins', 'no_conference'
    options = {**make_ablation().arm_options, 'router_training.samples': 8, 'router_training.iters': 2,
               'router_training.leave_out': ['lidar_fog']}
    ablation = make_ablation(arms, ('clean', 'lidar_turn:10'), 'lying_sensors', out=tmp_path, arm_options=options,
                             jobs=2)
    ablation.plan.arms['no_conference'] = replace(ablation.plan.arms['no_conference'], against='plug_in')
    assert ablation.run() == []
    drawn = []
    monkeypatch.setattr('projects.mmdet3d_plugin.experiments.ablation.draw_ablation',
                        lambda *given: drawn.append(given))
    text = ablation.report()
    (_, differences, _, reference), = drawn
    assert list(differences) == ['+ router', '+ router, without stand-ins',
                                 '+ router, nobody confers (against + router)']
    assert reference == 'CMT, or to the arm named by "against"'

    results = {arm: read_record(tmp_path / f'{arm}_seed0/result.json')['tests'] for arm in arms}
    assert set(results['plug_in']['lidar_turn:10']) == {'learned', 'off', 'oracle'}
    score = {arm: record['lidar_turn:10']['learned']['scores']['mAP'] for arm, record in results.items()}
    assert results['plug_in']['lidar_turn:10']['off']['scores']['mAP'] == pytest.approx(score['untouched'], abs=1e-3)
    record = json.loads((tmp_path / 'ablation.json').read_text())
    assert 'lidar_turn:10' in record['seen'] and not any('lidar_fog' in case for case in record['seen'])
    for arm, other in (('plug_in', 'untouched'), ('no_stand_ins', 'untouched'), ('no_conference', 'plug_in')):
        assert record['intervals'][arm]['lidar_turn:10']['mean'] == pytest.approx(score[arm] - score[other], abs=1e-9)
    assert '| + router, nobody confers (against + router) |' in text
    assert {row['arm'] for row in record['tables']['What the routers did']} == {
        '+ router', '+ router, without stand-ins', '+ router, nobody confers'}
    assert 'looked at 8 of 8' in (tmp_path / 'plug_in_seed0/log.txt').read_text()
    assert {path.name for path in tmp_path.glob('evidence_*')} == {'evidence_baseline_seed0'}
    assert 'looked at' not in (tmp_path / 'no_conference_seed0/log.txt').read_text()
    weights = {arm: torch.load(tmp_path / f'{arm}_seed0/latest.pth', weights_only=False)['state_dict']
               for arm in ('plug_in', 'no_conference')}
    assert not (tmp_path / 'no_stand_ins_seed0/latest.pth').exists()
    start = torch.load(ablation.baselines[0], weights_only=False)['state_dict']
    assert all(torch.equal(own[name], value) for own in weights.values() for name, value in start.items())
    assert not any('confer' in key for key in weights['no_conference'])


def test_arms_start_alike(make_ablation):
    """The first losses of both arms agree: same baseline, same data, same failures; the router is neutral."""
    logs = {}
    for arm in ARM_NAMES:
        log, = (make_ablation().out / f'{arm}_seed0').glob('*.log.json')
        logs[arm] = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    first, routed = logs['failures'][0], logs['aqr_global'][0]
    assert len(logs['failures']) == len(logs['aqr_global']) >= 4
    assert 'loss_aqr' in routed and 'loss_aqr' not in first
    assert routed['loss_aqr'] == pytest.approx(np.log(2), abs=1e-4)
    for name in ('loss_cls', 'loss_bbox', 'dn_loss_cls', 'dn_loss_bbox'):
        assert routed[name] == pytest.approx(first[name], rel=1e-3), name


@pytest.fixture
def other_baseline(make_ablation, tmp_path):
    """A checkpoint like the published one, of other contents."""
    checkpoint = torch.load(make_ablation().configs.parent / 'checkpoints/cmt_synthetic.pth', weights_only=False)
    checkpoint['state_dict']['pts_bbox_head.reference_points.weight'] *= 0.99
    torch.save(checkpoint, tmp_path / 'other.pth')
    return str(tmp_path / 'other.pth')


def test_another_baseline_is_not_mixed_in(make_ablation, other_baseline):
    failed = make_ablation(baselines={0: other_baseline}).run()
    assert len(failed) == 2 and 'failures_seed0/log.txt' in failed[0]
    assert 'another config, baseline or data' in (make_ablation().out / 'failures_seed0/log.txt').read_text()


def test_reports_are_of_one_setting(make_ablation, other_baseline):
    """Results that other settings made are named, not mixed in."""
    other = {**make_ablation().arm_options, 'optimizer.lr': 1e-3}
    with pytest.raises(ValueError, match='no seed .* is finished .*failures was made with another config'):
        make_ablation(arm_options=other).report()
    with pytest.raises(ValueError, match='aqr_global was made with another config, baseline or data'):
        make_ablation(baselines={0: other_baseline}).report()
    with pytest.raises(ValueError, match=r"failures was not tested under \['fov:60'\]"):
        make_ablation(cases=(*CASES, 'fov:60')).report()
    both = {**make_ablation().baselines, 7: other_baseline}
    assert 'Left out: seed 7: failures is not finished; aqr_global is not finished.' in make_ablation(
        baselines=both).report()


def test_small_reports(make_ablation):
    """Fewer arms or cases leave out tables, nothing else."""
    alone = make_ablation(arms=('failures', )).report()
    assert '**mAP**' in alone and 'Controls' not in alone and 'against' not in alone
    clean = make_ablation(cases=('clean', )).report()
    assert '**mAP against' in clean and 'Controls' not in clean
    make_ablation().report()


def test_an_unfinished_run_of_other_settings_is_not_gone_on_with(make_ablation, tmp_path):
    ablation = make_ablation(out=tmp_path)
    (tmp_path / 'failures_seed0').mkdir()
    (tmp_path / 'failures_seed0/epoch_1.pth').write_bytes(b'of something else')
    assert len(ablation.run()) == 1
    assert 'another config, baseline or data' in (tmp_path / 'failures_seed0/log.txt').read_text()
    assert read_record(tmp_path / 'aqr_global_seed0/started.json') == {
        'key': read_record(tmp_path / 'aqr_global_seed0/result.json')['key']}


def test_an_interrupted_series_begins_nothing_more(make_ablation, tmp_path, monkeypatch):
    started, ablation = [], make_ablation(out=tmp_path, baselines=dict.fromkeys(range(5), 'x.pth'))

    def slow(*args, log):
        started.append(log)
        time.sleep(0.3)
        return 0

    monkeypatch.setattr('projects.mmdet3d_plugin.experiments.ablation.run_in_child', slow)
    monkeypatch.setattr('projects.mmdet3d_plugin.experiments.ablation.as_completed', interrupt)
    with pytest.raises(KeyboardInterrupt):
        ablation.run()
    time.sleep(1)
    assert len(started) <= 2


def interrupt(runs):
    raise KeyboardInterrupt


def test_plans(repo_root):
    plans = {path.stem: load_plan(path) for path in (repo_root / 'configs/ablations').glob('*.py')}
    assert set(plans) == {'sensor_failures', 'lying_sensors', 'unseen_lies'}
    for plan in plans.values():
        for arm in plan.arms.values():
            load_config(repo_root / 'configs' / arm.config, arm.options)
    left_out = [plans['unseen_lies'].arms[arm].options['router_training.leave_out'] for arm in ('met_odd', 'met_even')]
    lies = {kind for case in plans['unseen_lies'].cases for kind in case.kinds}
    assert lies == {*left_out[0], *left_out[1]} and not set(left_out[0]) & set(left_out[1])


def test_mistakes(make_ablation, tmp_path):
    for arms in (('aqr_global', ), ('failures', 'magic')):
        with pytest.raises(ValueError, match="arms must be of .*'failures' among them"):
            make_ablation(arms=arms)
    with pytest.raises(ValueError, match="cases must have 'clean' among them"):
        make_ablation(cases=('lidar_drop', ))
    with pytest.raises(ValueError, match=r"arm 'no_stand_ins' needs \['plug_in'\] among the arms before it"):
        make_ablation(arms=('untouched', 'no_stand_ins'), plan='lying_sensors')
    with pytest.raises(ValueError, match='no seed of .* is finished for all arms'):
        make_ablation(out=tmp_path).report()


@pytest.mark.parametrize('change, message', [
    ("cases = ('clean', 'fog')", "'fog' is no failure"), ("cases = ('fov:60', )", "cases must have 'clean' among them"),
    ("fair = 'none'", "arms must be of .*'none' among them"), ('color = 1', "no plan of an ablation.*'color'"),
    ("arms = dict(failures=dict(config='x.py'))", "no plan of an ablation.*'title'"),
    ("arms = dict(failures=dict(title='x', config='x.py', trains='all'))", "x: trains must be one of .* got 'all'")])
def test_mistakes_in_plans(repo_root, tmp_path, change, message):
    path = tmp_path / 'plan.py'
    path.write_text((repo_root / 'configs/ablations/sensor_failures.py').read_text() + f'{change}\n')
    with pytest.raises(ValueError, match=message):
        load_plan(path)
    with pytest.raises(FileNotFoundError, match='plan of an ablation not found'):
        load_plan(tmp_path / 'none.py')
