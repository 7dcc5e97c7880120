"""What a frozen detector shows its router: looked at once and kept on disk, so that the router learns in minutes."""
import random
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmcv.parallel import collate

from ..hooks.transform_epoch_hook import set_epoch
from ..models.utils.aqr.looks import Looks
from ..models.utils.aqr.supervision import (
    RoutingTargets,
    paying_targets,
    places_to_distrust,
    routing_targets,
    views_lost,
)
from ..models.utils.token_layout import MODALITIES
from ..utils.record_file import read_record, write_record
from .distributed import default_device, on_default_device
from .distrust_benefits import distrust_benefits

COLUMNS = 2  # version of what a row holds: evidence of older code is not read
_LOOKS = ('lidar_states', 'camera_states', 'lidar_logits', 'camera_logits')


class EvidenceStore(torch.utils.data.Dataset):
    """Evidence of samples in memory-mapped arrays, one row a sample; a row is a dict of tensors.

    Rows: ``lidar_states``, ``camera_states`` (Q, C) and ``lidar_logits``, ``camera_logits`` (Q, K), in half precision;
    ``seen`` (Q, V), ``lidar_lost``, ``cameras_lost``, ``is_known`` (Q,), ``has_target`` (Q, 2) and ``views_lost`` (V,),
    bool; ``sample`` () the index in the dataset. With benefits also ``touched`` (2,) bool, the failure changed LiDAR's,
    the cameras' data, and ``benefits`` (2,), see :func:`distrust_benefits`.

    Args:
        folder (str | Path): of one store; created.
        rows (int): how many samples it will hold.
        key (str): changes with all that the evidence depends on.

    Raises:
        ValueError: the folder holds evidence of another key or number of rows.
    """

    def __init__(self, folder, rows, key):
        self.folder, self.rows, self.key = Path(folder), rows, key
        self.cases = []
        self._arrays = {}
        self._record = self.folder / 'evidence.json'
        if self._record.is_file():
            record = read_record(self._record)
            if (record['key'], record['rows']) != (key, rows):
                raise ValueError(f'{folder} holds evidence of another detector, other data or settings; remove it or '
                                 'name another folder')
            self.cases = record['cases']
            self._arrays = {name: np.load(self._path(name), mmap_mode='r+') for name in record['arrays']}
        self.folder.mkdir(parents=True, exist_ok=True)

    def __len__(self):
        return len(self.cases)

    def __getitem__(self, row):
        values = {name: torch.from_numpy(np.array(array[row])) for name, array in self._arrays.items()}
        return {name: value.float() if name in _LOOKS else value for name, value in values.items()}

    def column(self, name):
        """All rows of one array so far, memory-mapped."""
        return self._arrays[name][:len(self)]

    def append(self, case, arrays):
        """Add a row: text of the case, and name -> array without the first axis; kept on disk by :meth:`save`."""
        for name, value in arrays.items():
            if name not in self._arrays:
                dtype = np.float16 if name in _LOOKS else value.dtype
                self._arrays[name] = np.lib.format.open_memmap(
                    self._path(name), mode='w+', dtype=dtype, shape=(self.rows, *value.shape))
            self._arrays[name][len(self.cases)] = value
        self.cases.append(case)

    def save(self):
        """Make the rows so far last."""
        for array in self._arrays.values():
            array.flush()
        write_record(self._record, dict(key=self.key, rows=self.rows, cases=self.cases, arrays=list(self._arrays)))

    def _path(self, name):
        return self.folder / f'{name}.npy'


def looks_of(batch):
    """``Looks`` of a batch of rows."""
    return Looks(*(batch[name] for name in _LOOKS))


def targets_of(batch, targets, least_benefit=None):
    """``RoutingTargets`` of a batch of rows.

    Args:
        batch (dict): of the rows.
        targets (Callable | None): of ``TARGETS``; None will do beside a least benefit.
        least_benefit (float | None): takes :func:`paying_targets` instead; the rows need benefits.
    """
    lidar_lost, cameras_lost = batch['lidar_lost'], batch['cameras_lost']
    if least_benefit is not None:
        return paying_targets(lidar_lost, cameras_lost, batch['touched'], batch['benefits'], least_benefit)
    return RoutingTargets(lidar_lost, cameras_lost, targets(lidar_lost, cameras_lost), batch['is_known'],
                          batch['has_target'])


def collect_evidence(model, dataset, store, seed, workers, samples_per_batch, save_every=64, benefits=False):
    """Look at samples of a training dataset until a store is full.

    Samples come in a random order, all of them once before any comes again. A row depends on ``seed`` and its number
    alone, not on workers or interruptions: augmentation and failure are drawn from these.

    Args:
        model (CmtDetector): trained, with a router that needs looks; its features are those of evaluation.
        dataset (Dataset): with a training pipeline that simulates failures.
        store (EvidenceStore): filled from where it ends.
        seed (int): of order, augmentation and failures.
        workers (int): processes that load.
        samples_per_batch (int): for the detector.
        save_every (int): samples; as many at most are looked at again after an interruption.
        benefits (bool): rows have ``touched`` and ``benefits``, too, for which the detector decodes three times.

    Raises:
        ValueError: samples whose metas lack the failure record, or what blank images need.
    """
    model = model.to(default_device()).eval()
    start, first_row = time.perf_counter(), len(store)
    passes = range(-(-store.rows // len(dataset)))
    order = np.concatenate([np.random.default_rng((seed, number)).permutation(len(dataset)) for number in passes])
    for number in passes:
        first, last = (min(edge * len(dataset), store.rows) for edge in (number, number + 1))
        rows = range(max(first, len(store)), last)
        set_epoch(dataset, number)
        loader = torch.utils.data.DataLoader(
            _SeededRows(dataset, order, rows, seed), batch_size=samples_per_batch, num_workers=workers,
            collate_fn=partial(collate, samples_per_gpu=samples_per_batch))
        for batch in loader:
            for case, arrays in _rows(model, batch, benefits):
                store.append(case, dict(arrays, sample=order[len(store)]))
                if len(store) % save_every == 0 or len(store) == store.rows:
                    store.save()
                    left = (time.perf_counter() - start) / (len(store) - first_row) * (store.rows - len(store))
                    print(f'looked at {len(store)} of {store.rows} samples, about {left:.0f} s left', flush=True)


class _SeededRows(torch.utils.data.Dataset):
    """Samples of a dataset in a given order, whose random numbers depend on their row alone."""

    def __init__(self, dataset, order, rows, seed):
        self.dataset, self.order, self.rows, self.seed = dataset, order, rows, seed

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        words = np.random.SeedSequence([self.seed, row]).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(words[1])
        torch.manual_seed(int(words[2]))
        return self.dataset[int(self.order[row])]


@torch.no_grad()
def _rows(model, batch, benefits):
    """Pairs (case, arrays) of the samples of a batch."""
    batch = on_default_device(batch)
    points, img, metas = (batch[name] for name in ('points', 'img', 'img_metas'))
    head = model.pts_bbox_head
    img_feats, pts_feats = model.extract_feat(points, img, metas)
    blank_feats = model.blank_features(points, img, metas)
    scene = head.embed_scene(pts_feats, img_feats, metas, blank_feats)
    evidence = head.router_evidence(scene, metas)
    targets = routing_targets(evidence, metas, head.pc_range, head.bev_cell_size, head.aqr_options.targets)
    arrays = {name: getattr(evidence.looks, name) for name in _LOOKS}
    arrays.update(seen=evidence.projections.pts_pers_valid, lidar_lost=targets.lidar_lost,
                  cameras_lost=targets.cameras_lost, is_known=targets.is_known, has_target=targets.has_target,
                  views_lost=views_lost(metas, evidence.projections.pts_pers_valid))
    if benefits:
        places = places_to_distrust(targets.lidar_lost, targets.cameras_lost)
        arrays['benefits'] = distrust_benefits(head, scene, metas, evidence.projections, places)
        arrays['touched'] = torch.tensor([[sensor in meta['failure'].changed for sensor in MODALITIES]
                                          for meta in metas])
    for index, meta in enumerate(metas):
        yield meta['failure'].case, {name: value[index].cpu().numpy() for name, value in arrays.items()}
