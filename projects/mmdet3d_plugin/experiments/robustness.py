"""Tests of one checkpoint while sensors fail; what is finished is kept."""
import math
import time
from collections import Counter, defaultdict
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmdet.datasets import build_dataloader
from mmdet.utils import compat_cfg, setup_multi_processes
from mmdet3d.datasets import build_dataset
from nuscenes.utils.geometry_utils import transform_matrix
from pyquaternion import Quaternion
from sklearn.metrics import roc_auc_score

from .. import datasets
from ..apis.distributed import seed_everything
from ..apis.failing_sensors import with_failure
from ..apis.test import build_trained_model
from ..core import failure_record
from ..datasets.pipelines.input_digest import joint_digest
from ..datasets.sensor_failures import FAILURES, FailureCase
from ..evaluation.detection_matches import recall
from ..evaluation.nuscenes_evaluator import NuScenesEvaluator
from ..evaluation.nuscenes_scores import nuscenes_scores
from ..models.utils.aqr.routing_record import regions
from ..models.utils.geometry import padded_image_size, project_to_views, view_cells
from ..models.utils.token_layout import MODALITIES
from ..utils.atomic_file import atomic_path
from ..utils.content_hash import code_sha256, content_key, file_sha256
from ..utils.plain_values import plain_values
from ..utils.record_file import read_record, write_record
from .result_store import info_file
from .router_controls import Control
from .tested_model import Collected, TestedModel

DEFAULT_CASES = ('clean', 'lidar_drop', 'camera_drop', 'view_drop:3', 'fov:60', 'fov:90', 'object_failure:0.5',
                 'beams:16', 'beams:8', 'beams:4', 'calibration:1', 'calibration:2')
RECALL_SCORE = 0.1  # least score of a detection that counts in recall
_SETTINGS = ('model', 'test_cfg', 'fp16')
_FORMAT = 3  # of the results: those of another one are made again


class RobustnessTest:
    """Tests of one checkpoint under simulated sensor failures.

    Every case is a pass over `data.test`, and one more for each sensor that is tested alone; its numbers are kept in
    `folder`, named by what they depend on, the code of the failures included, and not computed again while that is the
    same. (Loaders that draw, such as of sweeps, draw otherwise with another number of workers, which is not part of the
    name.) With a router, `controls` say what else its weights are replaced by, on the same features.

    Any detector will do that takes points, img and img_metas, and returns boxes; of one without CMT's head there is
    neither attention nor routing to report.

    Args:
        cfg (mmcv.Config): from `load_config`; `data.test` is a nuScenes dataset of validation samples.
        checkpoint (str): see `build_trained_model`.
        folder (str | Path): where results are kept.
        controls (Sequence[Control | str]): see `Control.parse`; a model without router has 'learned' and those of
            `router_controls.ALONE`.
        seed (int): of the failures.
        trust_checkpoint (bool): see `read_checkpoint`.

    Raises:
        FileNotFoundError: checkpoint or info file do not exist.
        ValueError: see `info_file`, `build_trained_model`, `with_failure` and `Control.parse`; controls that a model
            without router does not have.
    """

    def __init__(self, cfg, checkpoint, folder, controls=('learned', ), seed=0, trust_checkpoint=False):
        self.cfg, self.checkpoint, self.folder = compat_cfg(cfg), str(checkpoint), Path(folder)
        self.seed, self.trust_checkpoint = seed, trust_checkpoint
        self.routes = bool((self.cfg.model.get('pts_bbox_head') or {}).get('enable_aqr'))
        self.controls = self._parse(controls)
        self.origin = dict(checkpoint=self.checkpoint, checkpoint_sha256=file_sha256(checkpoint),
                           info_file_sha256=file_sha256(info_file(self.cfg, 'test')), failures_sha256=_failures_code())
        self._model = self._evaluator = None

    def _parse(self, controls):
        """Controls of these names; raises for those that the model does not have."""
        controls = tuple(control if isinstance(control, Control) else Control.parse(control) for control in controls)
        refused = [str(control) for control in controls
                   if not self.routes and control.modality == 'both' and control != Control('learned')]
        if refused:
            raise ValueError("controls must be 'learned', 'lidar_alone' or 'camera_alone' for a model without router, "
                             f'got {refused}')
        return controls

    @property
    def evaluator(self):
        """NuScenesEvaluator: of `data.test`."""
        if self._evaluator is None:
            self._evaluator = NuScenesEvaluator(build_dataset(self.cfg.data.test, dict(test_mode=True)))
        return self._evaluator

    @property
    def scene_of_sample(self):
        """dict[str, str]: see `NuScenesEvaluator`."""
        return self.evaluator.scene_of_sample

    def run(self, case, controls=None):
        """Test one case, or read what an earlier equal test found.

        Args:
            case (FailureCase | str): what strikes every sample.
            controls (Sequence[Control | str] | None): in place of those of the constructor.

        Returns:
            dict[str, dict]: for each control `scores` (see `nuscenes_scores`), `recall` (`inside`, `outside` the places
            where a sensor is lost, and the numbers of boxes), `weights` (mean LiDAR and camera weight by what is lost),
            `attention` (mean share of LiDAR by layer), `seconds`, `case`, `digest` of what the failure left (see
            `DigestInputs`), `fallbacks` (failure -> samples in which something took the place of what it needs),
            `spared` (failure -> samples that it left as they were), `samples`, `matches` (path of the DetectionMatches)
            and `queries` (path of the router's decisions or None).
        """
        controls = self.controls if controls is None else self._parse(controls)
        case = FailureCase.parse(case)
        stems = self._stems(case, controls)
        missing = [control for control, stem in stems.items() if not Path(f'{stem}.json').is_file()]
        for modality in dict.fromkeys(control.modality for control in missing):
            together = [control for control in missing if control.modality == modality]
            start = time.perf_counter()
            for control, (record, matches, queries) in self._test(case, modality, together).items():
                stem = stems[control]
                matches.save(Path(f'{stem}.npz'))
                if queries is not None:
                    with atomic_path(f'{stem}.queries.npz') as path, open(path, 'wb') as file:
                        np.savez_compressed(file, **queries)
                write_record(Path(f'{stem}.json'), {
                    **self.origin, 'case': str(case), 'control': str(control), 'seed': self.seed,
                    'seconds': (time.perf_counter() - start) / len(together), **record})
        return {str(control): {
            **read_record(Path(f'{stem}.json')), 'matches': f'{stem}.npz',
            'queries': f'{stem}.queries.npz' if Path(f'{stem}.queries.npz').is_file() else None
        } for control, stem in stems.items()}

    def is_finished(self, case):
        """Whether `run` would read all that it returns."""
        stems = self._stems(FailureCase.parse(case), self.controls)
        return all(Path(f'{stem}.json').is_file() for stem in stems.values())

    def _stems(self, case, controls):
        """Path of each control's result, without suffix."""
        cfg = with_failure(self.cfg, case, self.seed)
        sources = ['checkpoint_sha256', 'info_file_sha256', *['failures_sha256'] * (not case.is_clean)]
        key = content_key({name: cfg.get(name) for name in _SETTINGS}, cfg.data.test,
                          *(self.origin[name] for name in sources), _FORMAT)
        return {control: self.folder / f'{case.file_name}_{control.file_name}_{key}' for control in controls}

    def _test(self, case, modality, controls):
        """Records, matches and router's decisions of one pass over the data, by control."""
        cfg = with_failure(self.cfg, case, self.seed, modality, digest=True)
        setup_multi_processes(cfg)
        dataset = build_dataset(cfg.data.test, dict(test_mode=True))
        options = dict(samples_per_gpu=1, workers_per_gpu=2, dist=False, shuffle=False)
        loader = build_dataloader(dataset, **{**options, **cfg.data.get('test_dataloader', {})})
        if self._model is None:
            self._model = TestedModel(build_trained_model(
                cfg, self.checkpoint, trust_checkpoint=self.trust_checkpoint, classes=dataset.CLASSES))
        if self.routes and self._model.router is None:
            raise ValueError("model.pts_bbox_head.enable_aqr=True, but the head is not CMT's and routes nothing")
        if self._evaluator is None:
            self._evaluator = NuScenesEvaluator(dataset)
        self._evaluator.dataset = dataset
        if self._model.router is not None:
            self._model.router.restart()

        collected = {control: Collected() for control in controls}
        samples = _Samples(dataset)
        # Loaders of sweeps draw some of many; every model gets the same ones, whatever it drew while it was built.
        seed_everything(0)
        progress = mmcv.ProgressBar(len(dataset))
        for batch in loader:
            for meta in self._model.detect(batch, collected):
                samples.add(meta)
                progress.update()
        print()
        return {control: _summary(kept, samples, self._evaluator) for control, kept in collected.items()}


def _failures_code():
    """SHA-256 of the code by which cases strike, registered ones of others included; that of presets, which only names
    cases, is left out.
    """
    folder = Path(datasets.__file__).parent
    files = {*folder.glob('sensor_failures/*.py'), folder / 'other_samples.py', folder / 'camera_geometry.py',
             folder / 'pipelines/simulate_failure.py', Path(failure_record.__file__)}
    files |= {Path(known.source) for known in FAILURES.values() if known.source}
    return code_sha256(sorted(files - {folder / 'sensor_failures/presets.py'}))


class _Samples:
    """What a failure did to the samples of a dataset."""

    def __init__(self, dataset):
        self.infos = {info['token']: info for info in dataset.data_infos}
        self.metas = {}

    def add(self, meta):
        """Keep what is needed of a sample's meta."""
        names = ('failure', 'lidar2img', 'pad_shape', 'input_digest')
        self.metas[meta['sample_idx']] = {name: meta[name] for name in names if name in meta}

    def facts(self):
        """dict: `samples`, their joint `digest`, `fallbacks` and `spared`, see `RobustnessTest.run`."""
        failures = [meta['failure'] for meta in self.metas.values()]
        fallbacks = Counter(name for failure in failures for name, details in failure.details.items()
                            if isinstance(details, dict) and details.get('fallback'))
        spared = Counter(name for failure in failures for name in failure.spared)
        return dict(samples=len(failures), fallbacks=dict(fallbacks), spared=dict(spared), digest=joint_digest(
            {str(token): meta['input_digest'] for token, meta in self.metas.items()}))

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
                shapes = meta['pad_shape']  # of each view, or one for all, as loaders leave it
                size = padded_image_size([dict(pad_shape=shapes if np.ndim(shapes[0]) else [shapes])])
                own = own | meta['failure'].cameras_lost(view_cells(pixels, depth, size, size)[1][0])
            lost[mine] = own.numpy()
        return lost


def _summary(kept, samples, evaluator):
    metrics, matches = evaluator.evaluate(kept.detections)
    affected = samples.affected(matches)
    record = dict(
        **samples.facts(),
        scores=nuscenes_scores(plain_values(metrics)),
        recall=dict(inside=recall(matches, affected, RECALL_SCORE), outside=recall(matches, ~affected, RECALL_SCORE),
                    boxes_inside=int(affected.sum()), boxes_outside=int((~affected).sum())),
        attention={f'layer {i}': share for i, share in enumerate(torch.cat(kept.attention).mean(dim=0).tolist())
                   } if kept.attention else {},
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
        nds (dict[FailureCase, float | ndarray]): NDS by case, 'clean' among them; arrays for several sets at once.

    Returns:
        tuple[dict, float | ndarray]: RA of each case, NDS over clean NDS; and mRA, the mean over kinds of the mean over
        severities, NaN without failures. NaN where clean NDS is 0.
    """
    clean = np.where(np.asarray(nds[FailureCase()]) > 0, nds[FailureCase()], math.nan)
    ra = {case: value / clean for case, value in nds.items()}
    kinds = defaultdict(list)
    for case, value in ra.items():
        if not case.is_clean:
            kinds[case.kinds].append(value)
    means = [np.mean(values, axis=0) for values in kinds.values()]
    return ra, np.mean(means, axis=0) if means else math.nan
