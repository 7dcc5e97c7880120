"""The plug-in training: only the router learns, from evidence that the frozen detector shows once."""
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

import numpy as np
import torch
from mmcv.runner import build_optimizer, build_runner, save_checkpoint
from mmdet.utils import compat_cfg, get_root_logger, setup_multi_processes
from mmdet3d.datasets import build_dataset
from sklearn.metrics import roc_auc_score
from torch import nn

from ..core.arguments import check_count, check_factor
from ..datasets.other_samples import scene_numbers
from ..datasets.pipelines import SimulateFailure
from ..datasets.sensor_failures import CLEAN, FAILURES, FailureCase
from ..datasets.wrapped_datasets import all_datasets, all_transforms
from ..models.utils.aqr.aqr import PREFIX
from ..models.utils.aqr.conferring_router import mean_states
from ..models.utils.aqr.looks import Looks
from ..models.utils.aqr.routing_record import best_view_weights
from ..models.utils.aqr.supervision import TARGETS, places_to_distrust, routing_loss, targets_of_views
from ..models.utils.token_layout import MODALITIES
from ..utils.atomic_file import atomic_path
from ..utils.content_hash import content_key, file_sha256
from ..utils.plain_values import plain_values
from ..utils.postponed_log import PostponedLog
from ..utils.record_file import write_record
from ..utils.run_lock import run_lock
from ..utils.tables import markdown_table
from .distributed import default_device, seed_everything
from .router_evidence import COLUMNS, EvidenceStore, collect_evidence, looks_of, targets_of
from .test import build_trained_model

_TITLES = ('LiDAR', 'cameras')
_LEGEND = ("On held-out samples. LiDAR, cameras: share of that sensor's attention that is taken, mean over queries.\n"
           'AUROC: of the weights against the places that the failure records; - where it has none or all.')
_LEGEND_PAYS = '\nPays: AUROC of the weights against the places where distrust was taught, since it pays.'
_EVERY = 'all'
_LARGEST_MARGIN, _MARGIN_STEP = 8.0, 0.25


@dataclass(frozen=True)
class RouterTraining:
    """How a router learns from kept evidence: ``router_training`` of a config.

    Attributes:
        samples (int): that the detector looks at, at least 2, drawn from ``data.train``.
        held_out (float): share of the scenes, in [0, 1), whose verdicts the router does not learn; they serve the
            report and ``caution``. What is familiar is learned from all scenes, each left out in turn.
        batch (int): samples a step.
        iters (int): steps.
        lr, weight_decay (float): of AdamW; the rate rises and falls once (one-cycle).
        least_benefit (float | None): None teaches distrust wherever a failure lost a sensor. A number >= 0 teaches it
            where it lowers the detection loss of the sample by more (:func:`paying_targets`).
        caution (float): in [0, 1), share of what distrust wins in held-out scenes that may be given up so that doubt
            acts only where the router is sure: each sensor's logits are raised as far as that allows (:func:`margins`).
            Above 0 it needs ``least_benefit`` and ``held_out``.
        leave_out (tuple[str]): names of failures of ``data.train``, ('glare', 'lidar_turn'). What they strike teaches
            nothing, neither weights nor margins nor what is familiar: tests under them show what a router makes of lies
            that it never met, with the same evidence.

    Raises:
        ValueError: for numbers out of range, or names of no failure.
    """

    samples: int = 5000
    held_out: float = 0.1
    batch: int = 32
    iters: int = 1500
    lr: float = 1e-3
    weight_decay: float = 0.01
    least_benefit: Optional[float] = None
    caution: float = 0.0
    leave_out: Tuple[str, ...] = ()

    def __post_init__(self):
        for name, least in dict(samples=2, batch=1, iters=1).items():
            check_count(f'router_training.{name}', getattr(self, name), least)
        for name in ('lr', 'weight_decay', 'held_out'):
            check_factor(f'router_training.{name}', getattr(self, name))
        if not self.held_out < 1:
            raise ValueError(f'router_training.held_out must be in [0, 1), got {self.held_out}')
        if self.least_benefit is not None:
            check_factor('router_training.least_benefit', self.least_benefit)
        if not check_factor('router_training.caution', self.caution) < 1:
            raise ValueError(f'router_training.caution must be in [0, 1), got {self.caution}')
        if self.caution and not (self.needs_benefits and self.held_out):
            raise ValueError('router_training.caution weighs benefits in held-out scenes: it needs least_benefit and '
                             f'held_out > 0, got {self.least_benefit} and {self.held_out}')
        if not isinstance(self.leave_out, (list, tuple)) or not all(name in list(FAILURES) for name in self.leave_out):
            raise ValueError(f'router_training.leave_out={self.leave_out!r} must be a list of names of failures, '
                             f'without arguments and severities: of {sorted(FAILURES)}')

    @property
    def needs_benefits(self):
        """bool: evidence has to say where distrust pays."""
        return self.least_benefit is not None


def train_router(cfg, checkpoint, name, seed=0, workers=2, trust_checkpoint=False, evidence=None):
    """Teach the router of a config on a frozen detector: look once, learn, write a checkpoint of both.

    Writes to ``cfg.work_dir`` (default ./work_dirs/<name>): ``evidence/``, from which an interrupted run goes on and
    later ones start at once that want as many ``samples``, and benefits or none as before; text, JSON and TensorBoard
    logs as ``log_config`` says; ``router.md`` and ``router.json``, verdicts by case on held-out samples (rows of
    :func:`verdicts`); ``latest.pth``.

    Args:
        cfg (mmcv.Config): from `load_config`; its router needs looks, ``data.train`` simulates failures.
        checkpoint (str): of the detector, see `build_trained_model`.
        name (str): file name of the config, for the work directory.
        seed (int): of everything that is drawn.
        workers (int): processes that load.
        trust_checkpoint (bool): see `read_checkpoint`.
        evidence (str | Path | None): folder to keep the evidence in, for routers that differ in their own options;
            default: ``evidence/`` in the work directory.

    Returns:
        str: the table of verdicts.

    Raises:
        ValueError: before anything is written: a router that needs no looks, settings out of range, a checkpoint that
            does not fit; `work_dir` holds evidence of another detector; after looking: too few samples for what
            ``held_out`` and ``leave_out`` take away.
        RuntimeError: another training runs in the work directory, or with this evidence.
    """
    cfg = compat_cfg(cfg)
    setup_multi_processes(cfg)
    settings = RouterTraining(**(cfg.get('router_training') or {}))
    work_dir = Path(cfg.work_dir or f'./work_dirs/{Path(name).stem}')
    cfg.seed = seed_everything(seed)
    dataset = build_dataset(cfg.data.train)
    model = build_trained_model(cfg, checkpoint, trust_checkpoint=trust_checkpoint, classes=dataset.CLASSES,
                                new_router=True)
    model.CLASSES = dataset.CLASSES
    _check_router(model.pts_bbox_head, settings, dataset)
    key = _evidence_key(cfg, checkpoint, dataset, model.pts_bbox_head.aqr_options, settings)
    evidence = Path(evidence or work_dir / 'evidence')
    with run_lock(work_dir), run_lock(evidence):
        store = EvidenceStore(evidence, settings.samples, key)
        collect_evidence(model, dataset, store, cfg.seed, workers, cfg.data.get('samples_per_gpu', 1),
                         benefits=settings.needs_benefits)
        scenes = scene_numbers(dataset)[store.column('sample')]
        held_out = _held_out(scenes, settings.held_out, cfg.seed)
        teaches = _teaches(store.cases, settings.leave_out)
        _check_rows(teaches, held_out, settings)
        _learn(model, store, np.flatnonzero(teaches & ~held_out), settings, cfg, work_dir)
        _learn_familiar(model.pts_bbox_head.aqr_router, store, np.flatnonzero(teaches), scenes, settings.batch)
        raised = _raise_logits(model.pts_bbox_head, store, np.flatnonzero(teaches & held_out), settings)
        rows = verdicts(model, store, np.flatnonzero(held_out), settings.batch, settings.least_benefit)
        write_record(work_dir / 'router.json', plain_values(dict(
            checkpoint=str(checkpoint), seed=cfg.seed, margins=raised, cases=rows)))
        text = _verdict_text(rows, raised, settings)
        with atomic_path(work_dir / 'router.md') as path:
            path.write_text(f'{text}\n')
        _save(model, cfg, checkpoint, work_dir / 'latest.pth')
    return text


def _check_router(head, settings, dataset):
    """Raise ValueError for a head whose router cannot be taught by these settings on this data."""
    router = getattr(head, 'aqr_router', None)
    if not getattr(router, 'needs_looks', False):
        raise ValueError('tools/train_router.py teaches routers that judge by looks (ConferringRouter); '
                         f'model.pts_bbox_head has {type(router).__name__}: tools/train.py teaches that one')
    options = head.aqr_options
    at_one = head.aqr_bias.weight_to_bias(torch.ones(1)).item()
    if settings.needs_benefits and (options.targets != 'trust' or at_one):
        raise ValueError("router_training.least_benefit needs model.pts_bbox_head.aqr_targets='trust' and a map such "
                         "as aqr_weight_map='log_gate', with which a weight of 1 leaves a sensor as it is, got "
                         f'{options.targets!r} and {options.weight_map!r}')
    if next(head.aqr_bias.parameters(), None) is not None:
        raise ValueError(f'model.pts_bbox_head.aqr_weight_map={options.weight_map!r} is learned from detections, by '
                         'tools/train.py; tools/train_router.py teaches the router alone')
    if settings.caution and len(np.unique(scene_numbers(dataset))) < 2:
        raise ValueError('router_training.caution weighs benefits in scenes that the router did not learn from, but '
                         'data.train has a single scene')
    drawn = [case for step in all_transforms(dataset) if isinstance(step, SimulateFailure)
             for case, share in zip(step.cases, step.shares.values()) if share > 0]
    absent = set(settings.leave_out) - {kind for case in drawn for kind in case.kinds}
    if absent or (drawn and not _teaches(drawn, settings.leave_out).any()):
        raise ValueError('router_training.leave_out must name failures that data.train draws, and leave some case, got '
                         f'{list(settings.leave_out)}; it draws {list(map(str, drawn))}')


def _check_rows(teaches, held_out, settings):
    """Raise ValueError where rows are too few for what a training takes from them."""
    learned, weighed = (teaches & ~held_out).sum(), (teaches & held_out).sum()
    if learned < 1 or learned + weighed < 2 or (settings.caution and weighed < 1):  # two say what is familiar
        raise ValueError(f'router_training.samples={settings.samples} are too few: held_out={settings.held_out} and '
                         f'leave_out={list(settings.leave_out)} leave {learned} to learn from and {weighed} to set the '
                         'margins of caution by')


def _evidence_key(cfg, checkpoint, dataset, options, settings):
    """Text that changes with all that evidence depends on; ``options`` are the head's AQROptions."""
    info_files = [part.ann_file for part in all_datasets(dataset) if getattr(part, 'ann_file', None)]
    return content_key(COLUMNS, _what_looks_depend_on(cfg.model), cfg.data.train, list(map(file_sha256, info_files)),
                       file_sha256(checkpoint), cfg.seed, options.targets,
                       *[_what_benefits_depend_on(options)] * settings.needs_benefits)


def _what_looks_depend_on(model):
    """A detector's config without the options of routing: of these, only what a blank LiDAR gives shows in a look."""
    head = {name: value for name, value in model.pts_bbox_head.items()
            if not name.startswith(PREFIX) or name == f'{PREFIX}blank_points'}
    return dict(model, pts_bbox_head=head)


def _what_benefits_depend_on(options):
    """Of AQROptions those by which a weight changes what is decoded."""
    return {name: getattr(options, name) for name in (
        'bias_strength', 'weight_map', 'bias_clip', 'per_view', 'use_local_bias', 'local_window_size', 'stand_ins')}


def _held_out(scenes, share, seed):
    """(N,) bool, rows of scenes (N,) that the router does not learn from: a share of the scenes, one at least where the
    share is above 0 and there are two, never all.
    """
    known = np.unique(scenes)
    count = min(max(round(share * len(known)), int(share > 0)), len(known) - 1)
    return np.isin(scenes, np.random.default_rng((seed, 1)).permutation(known)[:count])


def _teaches(cases, leave_out):
    """(N,) bool, cases that none of the failures to leave out strikes."""
    return np.array([set(leave_out).isdisjoint(FailureCase.parse(case).kinds) for case in cases])


class _Learner(nn.Module):
    """A router as mmcv's runner trains it, on rows of evidence."""

    def __init__(self, router, targets, least_benefit):
        super().__init__()
        self.router, self.targets, self.least_benefit = router, targets, least_benefit

    def train_step(self, batch, optimizer=None):
        """Loss of a batch of rows."""
        batch = {name: value.to(next(self.router.parameters()).device) for name, value in batch.items()}
        has_say = torch.ones_like(batch['lidar_lost'])
        weights = self.router.judge(looks_of(batch), batch['seen'], has_say).float().sigmoid()
        targets = targets_of(batch, self.targets, self.least_benefit)
        if self.router.per_view:
            targets = targets_of_views(targets, batch['seen'], batch['views_lost'])
        loss = routing_loss(weights[..., 0], weights[..., 1:], targets, has_say)
        return dict(loss=loss, log_vars=dict(loss_aqr=loss.item()), num_samples=len(has_say))


class _Endless:
    """A loader that starts again by itself: mmcv's runner sleeps for two seconds whenever one ends."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        while True:
            yield from self.loader


def _learn(model, store, rows, settings, cfg, work_dir):
    head = model.pts_bbox_head
    learner = _Learner(head.aqr_router, TARGETS[head.aqr_options.targets], settings.least_benefit).to(default_device())
    rows = torch.utils.data.Subset(store, rows.tolist())
    loader = torch.utils.data.DataLoader(rows, settings.batch, shuffle=True, drop_last=len(rows) >= settings.batch,
                                         generator=torch.Generator().manual_seed(cfg.seed))
    timestamp = time.strftime('%Y%m%d_%H%M%S', time.localtime())
    logger = get_root_logger(log_level=cfg.get('log_level', 'INFO'))
    with PostponedLog(logger, work_dir / f'{timestamp}.log') as log:
        log.create_file()
        runner = build_runner(dict(type='IterBasedRunner', max_iters=settings.iters), dict(
            model=learner, work_dir=str(work_dir), logger=logger, optimizer=build_optimizer(
                learner, dict(type='AdamW', lr=settings.lr, weight_decay=settings.weight_decay))))
        runner.timestamp = timestamp
        runner.register_training_hooks(dict(policy='OneCycle', max_lr=settings.lr),
                                       dict(grad_clip=dict(max_norm=5.0)), log_config=cfg.log_config)
        runner.run([_Endless(loader)], [('train', 1)])


def _learn_familiar(router, store, rows, scenes, batch):
    states = []
    for start in range(0, len(rows), batch):
        lidar, camera = (torch.from_numpy(np.array(store.column(f'{sensor}_states')[rows[start:start + batch]]))
                         for sensor in MODALITIES)
        states.append(mean_states(Looks(lidar, camera, None, None), torch.ones(lidar.shape[:2], dtype=torch.bool)))
    router.learn_familiar(torch.cat(states).to(default_device()), torch.from_numpy(scenes[rows]).to(default_device()))


@torch.no_grad()
def _raise_logits(head, store, rows, settings):
    """Make a router as cautious as settings say; returns the margins."""
    raised = [0.0] * len(MODALITIES)
    if settings.caution:
        raised = margins(head, store, rows, settings.batch, settings.caution)
        head.aqr_router.verdict[-1].bias += torch.tensor(raised, device=default_device())
    return raised


@torch.no_grad()
def margins(head, store, rows, batch, caution):
    """How far the logits of a router's weights can be raised before distrust wins much less.

    What it wins in a sample is the benefit of distrusting a sensor by the share of its attention that is taken where it
    could be distrusted; of a router that judges by view, that of the view which it trusts most. Failures that were
    never in training mostly show less certainty than known ones, so that a margin leaves them alone.

    Args:
        head (CmtHead): with the router.
        store (EvidenceStore): holds the evidence, with benefits.
        rows (Sequence[int]): of samples that it did not learn from.
        batch (int): rows at a time.
        caution (float): in [0, 1), share of the most that can be won with any margin which may be given up.

    Returns:
        list[float]: for LiDAR and the cameras, >= 0, at most 8: what a sensor gets whose distrust wins nothing.
    """
    grid = torch.arange(0, _LARGEST_MARGIN + _MARGIN_STEP / 2, _MARGIN_STEP)  # (M,)
    won = torch.zeros(len(grid), len(MODALITIES), dtype=torch.double)
    for kept in _batches(store, rows, batch):
        logits = _weights(head.aqr_router.eval(), kept).logit()  # (B, Q, 2), 0 where a sample is unfamiliar
        places = places_to_distrust(kept['lidar_lost'], kept['cameras_lost'])
        for index, margin in enumerate(grid.tolist()):
            taken = _taken(head.aqr_bias, (logits + margin).sigmoid()) * places
            share = taken.sum(dim=1) / places.sum(dim=1).clamp(min=1)  # (B, 2)
            won[index] += (share * kept['benefits']).sum(dim=0).double().cpu()
    most = won.amax(dim=0)  # below 0 where even the largest margin leaves distrust that harms
    enough = won >= most - caution * most.abs()
    return [grid[column].max().item() for column in enough.unbind(-1)]


@torch.no_grad()
def verdicts(model, store, rows, batch, least_benefit=None):
    """What a router says of rows of evidence, case by case and of all.

    Args:
        model (CmtDetector): whose head has the router.
        store (EvidenceStore): holds the evidence.
        rows (Sequence[int]): of the store.
        batch (int): rows at a time.
        least_benefit (float | None): see :func:`targets_of`.

    Returns:
        list[dict]: per case, the last one ``all``, its number of ``samples``; the mean share of attention that is taken
        from ``LiDAR`` and ``cameras``, in [0, 1]; ``AUROC LiDAR``, ``AUROC cameras`` of the weights: places that lost
        the sensor alone against those that lost nothing, of this case and of clean samples; with a ``least_benefit``
        also ``pays LiDAR``, ``pays cameras``: AUROC of places where distrust pays against others. NaN where a side is
        empty.
    """
    if not len(rows):
        return []
    weights, taken, lost, pays = _weights_and_truth(model.pts_bbox_head.eval(), store, rows, batch, least_benefit)
    nothing_lost = ~lost.any(axis=-1)
    cases = np.array([store.cases[row] for row in rows])
    table = []
    for case in [*sorted(set(cases), key=lambda case: (case != CLEAN, case)), _EVERY]:
        mine = (cases == case) | (case == _EVERY)
        compared = (mine | (cases == CLEAN))[:, None]
        row = {'case': case, 'samples': int(mine.sum())}
        row.update({title: float(taken[mine, :, sensor].mean()) for sensor, title in enumerate(_TITLES)})
        for sensor, title in enumerate(_TITLES):
            alone = lost[..., sensor] & ~lost[..., 1 - sensor] & mine[:, None]
            row[f'AUROC {title}'] = _auroc(weights[..., sensor], alone, nothing_lost & compared)
        if pays is not None:
            row.update({f'pays {title}': _auroc(weights[..., sensor], pays[..., sensor] & mine[:, None],
                                                ~pays[..., sensor] & compared)
                        for sensor, title in enumerate(_TITLES)})
        table.append(row)
    return table


def _weights_and_truth(head, store, rows, batch, least_benefit):
    """Of rows: weights, shares of attention that are taken, what is lost and where distrust pays, (N, Q, 2) each; the
    last one None without a least benefit.
    """
    parts = []
    for kept in _batches(store, rows, batch):
        weights = _weights(head.aqr_router, kept)
        lost = torch.stack([kept['lidar_lost'], kept['cameras_lost']], dim=-1)
        parts.append([weights, _taken(head.aqr_bias, weights), lost])
        if least_benefit is not None:
            parts[-1].append(targets_of(kept, None, least_benefit).weights < 0.5)
    found = [torch.cat(part).cpu().numpy() for part in zip(*parts)]
    return *found, *[None] * (least_benefit is None)


def _batches(store, rows, batch):
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(store, list(map(int, rows))), batch)
    for kept in loader:
        yield {name: value.to(default_device()) for name, value in kept.items()}


def _weights(router, kept):
    """(B, Q, 2) of a batch of rows; of a router that judges by view, those of the view that it trusts most."""
    weights = router.weigh(looks_of(kept), kept['seen'], torch.ones_like(kept['lidar_lost']))
    if not router.per_view:
        return weights
    return torch.stack([weights[..., 0], best_view_weights(weights[..., 1:], kept['seen'])], dim=-1)


def _taken(bias, weights):
    """Share of a sensor's attention that its weights take, in [0, 1]."""
    return 1 - bias.weight_to_bias(weights).clamp(max=0).exp()


def _auroc(weights, wrong, right):
    """Of one sensor's weights (N, Q), low ones at wrong against right places (N, Q) bool."""
    used = wrong | right
    if not wrong.any() or not right.any():
        return math.nan
    return float(roc_auc_score(wrong[used], -weights[used]))


def _verdict_text(rows, raised, settings):
    """The table of verdicts, what its columns are, and how far logits were raised."""
    text = f'{markdown_table(rows)}\n\n{_LEGEND}{_LEGEND_PAYS * settings.needs_benefits}'
    if settings.caution:
        text += '\nCaution: logits were raised by {:.2f} (LiDAR) and {:.2f} (cameras).'.format(*raised)
        text += f' By {_LARGEST_MARGIN:.2f}: no distrust of that sensor won anything.' * (_LARGEST_MARGIN in raised)
    return text


def _save(model, cfg, checkpoint, path):
    """A checkpoint of detector and router, as training writes them."""
    meta = dict(CLASSES=list(model.CLASSES), config=cfg.pretty_text, seed=cfg.seed, detector=str(checkpoint),
                detector_sha256=file_sha256(checkpoint))
    with atomic_path(path) as temporary:
        save_checkpoint(model, str(temporary), meta=plain_values(meta))
