"""How a detector stands up to sensor failures, and what its router does about them."""
import math
import time
from collections import defaultdict
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmcv.parallel.scatter_gather import scatter_kwargs
from mmdet.datasets import build_dataloader
from mmdet.utils import compat_cfg, setup_multi_processes
from mmdet3d.core import bbox3d2result
from mmdet3d.datasets import build_dataset
from nuscenes.utils.geometry_utils import transform_matrix
from pyquaternion import Quaternion
from sklearn.metrics import roc_auc_score

from ..apis.distributed import default_device, seed_everything
from ..apis.failing_sensors import with_failure
from ..apis.test import build_trained_model
from ..datasets.sensor_failures import FailureCase
from ..evaluation.detection_matches import recall
from ..evaluation.nuscenes_evaluator import NuScenesEvaluator
from ..evaluation.nuscenes_scores import nuscenes_scores
from ..models.utils.aqr.routing_record import regions
from ..models.utils.aqr.supervision import routing_targets
from ..models.utils.geometry import padded_image_size, project_to_views, view_cells
from ..models.utils.token_layout import MODALITIES
from ..models.utils.transformer.attention_recorder import AttentionRecorder
from ..utils.atomic_file import atomic_path
from ..utils.content_hash import content_key, file_sha256
from ..utils.plain_values import plain_values
from ..utils.record_file import read_record, write_record
from ..utils.tables import markdown_table, write_csv
from .result_store import info_file
from .router_controls import ControlledRouter

DEFAULT_CASES = ('clean', 'lidar_drop', 'camera_drop', 'view_drop:3', 'fov:60', 'fov:90', 'object_failure:0.5',
                 'beams:16', 'beams:8', 'beams:4', 'calibration:1', 'calibration:2')
RECALL_SCORE = 0.1  # least score of a detection that counts in recall
_ATTENTION_QUERIES = 64
_SETTINGS = ('model', 'test_cfg', 'fp16')


class RobustnessTest:
    """Tests of one checkpoint under simulated sensor failures.

    Every case is a pass over `data.test`; its numbers are kept in `folder`, named by what they depend on, and not
    computed again while that is the same. (Loaders that draw, such as of sweeps, draw otherwise with another number of
    workers, which is not part of the name.) With a router, `controls` say what else its weights are replaced by, on the
    same features.

    Args:
        cfg (mmcv.Config): from `load_config`; `data.test` is a nuScenes dataset of validation samples.
        checkpoint (str): see `build_trained_model`.
        folder (str | Path): where results are kept.
        controls (Sequence[str]): of `router_controls.CONTROLS`; a model without router has 'learned' alone.
        seed (int): of the failures.
        trust_checkpoint (bool): see `read_checkpoint`.

    Raises:
        FileNotFoundError: checkpoint or info file do not exist.
        ValueError: see `info_file`, `build_trained_model`, `with_failure` and `ControlledRouter`.
    """

    def __init__(self, cfg, checkpoint, folder, controls=('learned', ), seed=0, trust_checkpoint=False):
        self.cfg, self.checkpoint, self.folder = compat_cfg(cfg), str(checkpoint), Path(folder)
        self.controls, self.seed, self.trust_checkpoint = tuple(controls), seed, trust_checkpoint
        self.routes = bool(self.cfg.model.pts_bbox_head.get('enable_aqr'))
        if not self.routes and self.controls != ('learned', ):
            raise ValueError(f"controls must be ('learned',) for a model without router, got {self.controls}")
        self.origin = dict(checkpoint=self.checkpoint, checkpoint_sha256=file_sha256(checkpoint),
                           info_file_sha256=file_sha256(info_file(self.cfg, 'test')))
        self._model = self._evaluator = None

    @property
    def scene_of_sample(self):
        """dict[str, str]: see `NuScenesEvaluator`."""
        if self._evaluator is None:
            self._evaluator = NuScenesEvaluator(build_dataset(self.cfg.data.test, dict(test_mode=True)))
        return self._evaluator.scene_of_sample

    def run(self, case, controls=None):
        """Test one case, or read what an earlier equal test found.

        Args:
            case (FailureCase | str): what strikes every sample.
            controls (Sequence[str] | None): in place of those of the constructor.

        Returns:
            dict[str, dict]: for each control `scores` (see `nuscenes_scores`), `recall` (`inside`, `outside` the places
            where a sensor is lost, and the numbers of boxes), `weights` (mean LiDAR and camera weight by what is lost),
            `attention` (mean share of LiDAR by layer), `seconds`, `case` and `matches` (path of the DetectionMatches).
        """
        controls = self.controls if controls is None else tuple(controls)
        case = FailureCase.parse(case)
        cfg = with_failure(self.cfg, case, self.seed)
        key = content_key({name: cfg.get(name) for name in _SETTINGS}, cfg.data.test, self.origin['checkpoint_sha256'],
                          self.origin['info_file_sha256'])
        stems = {control: self.folder / f'{case.file_name}_{control}_{key}' for control in controls}
        missing = [control for control, stem in stems.items() if not Path(f'{stem}.json').is_file()]
        if missing:
            start = time.perf_counter()
            for control, (record, matches, queries) in self._test(cfg, case, missing).items():
                stem = stems[control]
                matches.save(Path(f'{stem}.npz'))
                if queries is not None:
                    with atomic_path(f'{stem}.queries.npz') as path, open(path, 'wb') as file:
                        np.savez_compressed(file, **queries)
                write_record(Path(f'{stem}.json'), {
                    **self.origin, 'case': str(case), 'control': control, 'seed': self.seed,
                    'seconds': (time.perf_counter() - start) / len(missing), **record})
        return {control: {**read_record(Path(f'{stem}.json')), 'matches': f'{stem}.npz',
                          'queries': f'{stem}.queries.npz' if self.routes else None} for control, stem in stems.items()}

    def _test(self, cfg, case, controls):
        """Records, matches and router's decisions of one case, by control."""
        setup_multi_processes(cfg)
        dataset = build_dataset(cfg.data.test, dict(test_mode=True))
        options = dict(samples_per_gpu=1, workers_per_gpu=2, dist=False, shuffle=False)
        loader = build_dataloader(dataset, **{**options, **cfg.data.get('test_dataloader', {})})
        if self._model is None:
            self._model = build_trained_model(cfg, self.checkpoint, trust_checkpoint=self.trust_checkpoint)
            self._model.to(default_device())
            self._router = ControlledRouter(self._model.pts_bbox_head) if self.routes else None
        if self._evaluator is None:
            self._evaluator = NuScenesEvaluator(dataset)
        self._evaluator.dataset = dataset
        if self._router is not None:
            self._router.restart()

        collected = {control: _Collected() for control in controls}
        boxes = _GroundTruthRegions(dataset)
        # Loaders of sweeps draw some of many; every model gets the same ones, whatever it drew while it was built.
        seed_everything(0)
        progress = mmcv.ProgressBar(len(dataset))
        for batch in loader:
            metas = self._detect(batch, collected)
            for meta in metas:
                boxes.add(meta)
                progress.update()
        print()
        return {control: _summary(kept, boxes, self._evaluator) for control, kept in collected.items()}

    @torch.no_grad()
    def _detect(self, batch, collected):
        """Detections of one batch with every control, features extracted once."""
        model, head = self._model, self._model.pts_bbox_head
        devices = [0] if default_device() == 'cuda' else [-1]
        _, (batch, ) = scatter_kwargs((), batch, devices)
        points, metas, img = (batch[name][0] if name in batch else None for name in ('points', 'img_metas', 'img'))
        img_feats, pts_feats = model.extract_feat(points, img, metas)
        for control, kept in collected.items():
            if self._router is not None:
                self._router.select(control)
            queries = min(_ATTENTION_QUERIES, head.num_query)
            with AttentionRecorder(head, num_queries=queries, seed=0) as recorder:
                outs = head(pts_feats, img_feats, metas)
            results = head.get_bboxes(outs, metas)
            kept.detections += [dict(pts_bbox=bbox3d2result(*result)) for result in results]
            kept.attention.append(torch.stack([
                layer.mass[..., 0].mean(dim=1) for layer in recorder.statistics], dim=1).cpu())  # (B, L)
            routing = outs[0][0].get('routing')
            if routing is not None:
                kept.add_routing(routing, routing_targets(routing, metas, head.pc_range, head.bev_cell_size))
        return metas


class _Collected:
    """What one control gives over all samples."""

    def __init__(self):
        self.detections, self.attention, self.queries = [], [], defaultdict(list)

    def add_routing(self, routing, targets):
        for name, value in dict(lidar_weights=routing.lidar_weights, camera_weights=routing.camera_weights,
                                lidar_lost=targets.lidar_lost, cameras_lost=targets.cameras_lost,
                                is_known=targets.is_known).items():
            self.queries[name].append(value.cpu().numpy())


class _GroundTruthRegions:
    """Which boxes of the devkit's ground truth lie where a sensor is lost."""

    def __init__(self, dataset):
        self.infos = {info['token']: info for info in dataset.data_infos}
        self.metas = {}

    def add(self, meta):
        """Keep of a sample's meta what :meth:`affected` needs."""
        names = ('failure', 'lidar2img', 'pad_shape')
        self.metas[meta['sample_idx']] = {name: meta[name] for name in names if name in meta}

    def affected(self, matches):
        """(G,) bool: the box's center has lost LiDAR, or all cameras that see it."""
        lost = np.zeros(len(matches.gt_sample), dtype=bool)
        for index, token in enumerate(matches.sample_tokens):
            mine = np.flatnonzero(matches.gt_sample == index)
            if not len(mine):
                continue
            info, meta = self.infos[str(token)], self.metas[str(token)]
            lidar2global = (transform_matrix(info['ego2global_translation'], Quaternion(info['ego2global_rotation']))
                            @ transform_matrix(info['lidar2ego_translation'], Quaternion(info['lidar2ego_rotation'])))
            centers = np.linalg.solve(lidar2global[:3, :3], (matches.gt_center[mine] - lidar2global[:3, 3]).T).T
            centers = torch.as_tensor(centers, dtype=torch.float32)
            own = meta['failure'].lidar_lost(centers)
            if 'lidar2img' in meta:
                pixels, depth = project_to_views(centers[None], torch.as_tensor(
                    np.stack(meta['lidar2img'])[None], dtype=torch.float32))
                size = padded_image_size([meta])
                own = own | meta['failure'].cameras_lost(view_cells(pixels, depth, size, size)[1][0])
            lost[mine] = own.numpy()
        return lost


def _summary(kept, boxes, evaluator):
    metrics, matches = evaluator.evaluate(kept.detections)
    affected = boxes.affected(matches)
    record = dict(
        scores=nuscenes_scores(plain_values(metrics)),
        recall=dict(inside=recall(matches, affected, RECALL_SCORE), outside=recall(matches, ~affected, RECALL_SCORE),
                    boxes_inside=int(affected.sum()), boxes_outside=int((~affected).sum())),
        attention={f'layer {i}': share for i, share in enumerate(torch.cat(kept.attention).mean(dim=0).tolist())},
        weights={})
    if not kept.queries:
        return record, matches, None
    queries = {name: np.concatenate(values).reshape(-1) for name, values in kept.queries.items()}
    for region, mask in regions(queries['lidar_lost'], queries['cameras_lost']).items():
        record['weights'][region] = dict(
            queries=int(mask.sum()),
            **{modality: _mean(queries[f'{modality}_weights'][mask]) for modality in MODALITIES})
    return record, matches, queries


def _mean(values):
    return float(values.mean()) if len(values) else math.nan


def routing_auroc(record, clean=None):
    """How well the router's weights tell where a sensor failed.

    The score of a query for "LiDAR is lost here, cameras are not" is its camera weight minus its LiDAR weight, for the
    opposite loss the negative. Queries that lost one sensor are the positives, those that lost neither or both, in this
    case and in the clean one, the negatives.

    Args:
        record (dict): of a control, from :meth:`RobustnessTest.run`.
        clean (dict | None): the same of the case 'clean'.

    Returns:
        dict[str, float]: by sensor 'lidar' and 'camera', in [0, 1]; NaN where the case loses no such sensor, gives no
        targets or has no negatives.
    """
    paths = [source['queries'] for source in (record, clean) if source is not None]
    parts = [dict(np.load(path)) for path in paths if isinstance(path, str)]
    result = dict.fromkeys(MODALITIES, math.nan)
    if not parts:
        return result
    queries = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    places = regions(queries['lidar_lost'], queries['cameras_lost'])
    for modality, region, sign in (('lidar', 'LiDAR lost', 1), ('camera', 'cameras lost', -1)):
        positive = places[region] & queries['is_known']
        used = positive | ((places['nothing lost'] | places['both lost']) & queries['is_known'])
        if positive.any() and not positive[used].all():
            score = sign * (queries['camera_weights'] - queries['lidar_weights'])
            result[modality] = float(roc_auc_score(positive[used], score[used]))
    return result


def relative_accuracy(nds):
    """Resilience as MultiCorrupt (Beemelmanns et al., 2024) defines it.

    Args:
        nds (dict[FailureCase, float]): NDS by case, 'clean' among them.

    Returns:
        tuple[dict, float]: RA of each case, NDS over clean NDS; and mRA, the mean over kinds of the mean over
        severities, NaN without failures.
    """
    clean = nds[FailureCase()]
    ra = {case: value / clean if clean else math.nan for case, value in nds.items()}
    kinds = defaultdict(list)
    for case, value in ra.items():
        if not case.is_clean:
            kinds[case.kinds].append(value)
    return ra, float(np.mean([np.mean(values) for values in kinds.values()])) if kinds else math.nan


def measure_robustness(cfg, checkpoint, cases=DEFAULT_CASES, out='work_dirs/robustness', controls=('learned', ), seed=0,
                       trust_checkpoint=False):
    """Test a checkpoint under every case; write `robustness.md`, `.csv` and `.json`.

    Args:
        cases (Sequence[FailureCase | str]): 'clean' is added, since the others are compared with it.
        out (str | Path): folder for results and tables.
        cfg, checkpoint, controls, seed, trust_checkpoint: see `RobustnessTest`.

    Returns:
        str: the table in markdown, a row per case and control.
    """
    clean, cases = FailureCase(), [FailureCase.parse(case) for case in cases]
    cases = [clean, *(case for case in cases if not case.is_clean)]
    for case in cases:
        with_failure(cfg, case)  # mistakes show before the first case runs
    test = RobustnessTest(cfg, checkpoint, Path(out) / 'results', controls, seed, trust_checkpoint)
    records = {}
    for number, case in enumerate(cases, 1):
        print(f'[{number}/{len(cases)}] {case}', flush=True)
        records[case] = test.run(case)
    rows, summary = [], dict(mRA={})
    for control in controls:
        ra, summary['mRA'][control] = relative_accuracy(
            {case: records[case][control]['scores']['NDS'] for case in cases})
        rows += [_row(case, control, records[case][control], ra[case], records[clean][control]) for case in cases]
    summary['cases'] = rows
    write_csv(Path(out) / 'robustness.csv', rows)
    write_record(Path(out) / 'robustness.json', plain_values(summary))
    if not test.routes:
        rows = [{name: value for name, value in row.items() if 'weight' not in name and 'AUROC' not in name
                 and name != 'control'} for row in rows]
    table = markdown_table(rows)
    table += ''.join(f'\n\nmRA ({control}): {value:.3f}' for control, value in summary['mRA'].items())
    table += ('\n\nRA: NDS over clean NDS; mRA: its mean over kinds of failures of the mean over severities. Recall '
              f'within 2 m at a score of {RECALL_SCORE:g}, of boxes inside and outside the places where a sensor is '
              'lost. LiDAR attention: share of the cross-attention, mean over layers.')
    if test.routes:
        table += ' Weights: mean where the sensor named is lost and elsewhere.'
    with atomic_path(Path(out) / 'robustness.md') as path:
        path.write_text(f'{table}\n')
    return table


def _row(case, control, record, ra, clean):
    auroc = routing_auroc(record, clean)
    weights = record['weights'] or {region: dict.fromkeys(MODALITIES, math.nan) for region in
                                    ('nothing lost', 'LiDAR lost', 'cameras lost')}
    return {
        'case': str(case), 'control': control, 'mAP': record['scores']['mAP'], 'NDS': record['scores']['NDS'],
        'mATE': record['scores']['mATE'], 'RA': ra, 'recall inside': record['recall']['inside'],
        'recall outside': record['recall']['outside'],
        'LiDAR attention': float(np.mean(list(record['attention'].values()))),
        'LiDAR / camera weight, nothing lost': _pair(weights['nothing lost']),
        'LiDAR / camera weight, LiDAR lost': _pair(weights['LiDAR lost']),
        'LiDAR / camera weight, cameras lost': _pair(weights['cameras lost']),
        'AUROC LiDAR': auroc['lidar'], 'AUROC cameras': auroc['camera'],
    }


def _pair(weights):
    if any(math.isnan(weights[modality]) for modality in MODALITIES):
        return None
    return ' / '.join(f'{weights[modality]:.2f}' for modality in MODALITIES)
