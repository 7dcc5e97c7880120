"""Ground-truth database: the objects of a training set, each with its points and its picture.

On-disk form of CMT (after UVTR), which :class:`UnifiedDataBaseSampler` describes and reads. Two things differ from the
script that made CMT's: it took the last camera that saw an object, not the best one, and repeated the keyframe's points
ten times in samples without sweeps, so that objects with a single point passed for well covered.
"""
import json
import shutil
from pathlib import Path

import mmcv
import numpy as np
from mmdet3d.core.bbox import box_np_ops
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from ..utils.atomic_file import atomic_path
from ..utils.content_hash import file_sha256
from ..utils.restricted_pickle import load_pickle
from .camera_geometry import project
from .custom_nuscenes_dataset import CustomNuScenesDataset
from .pipelines.image_files import read_image

# A crop has to be wider and higher than this share of the image's width: CMT's 10 pixels of nuScenes' 1600.
MIN_CROP_SHARE = 1 / 160
POINTS, IMAGES, RECORDS, SOURCE = 'pts_dir', 'img_dir', 'records', 'source.json'


def create_gt_database(info_file, out_dir, prefix='nuscenes', sweeps_num=10, workers=0):
    """Write ``<prefix>_gt_database/`` and its index ``<prefix>_dbinfos_train.pkl``.

    The index appears last, so a database with an index is complete. An interrupted run leaves a hidden folder from
    which the next one goes on; a complete database of the same info file is kept as it is.

    Args:
        info_file (str | Path): Training info file; see :func:`create_nuscenes_infos`.
        out_dir (str | Path): Folder for both. The index's paths begin with it as it is given here: a relative one has
            to be valid where training starts.
        prefix (str): First part of their names.
        sweeps_num (int): Number of sweeps whose points are merged with the keyframe's.
        workers (int): Number of processes beside this one; 0: this one does the work.

    Returns:
        Path: the index, ``{class name: [record, ...]}``. A record has ``name``, ``path`` (points, float32 (P, 5):
        x, y, z relative to the bottom center, intensity, time lag in s), ``image_path`` (crop, '' where no camera has
        the whole box in front of it and a large enough part of it in the image), ``image_crop_key`` (name of that
        camera), ``image_crop_depth`` (m), ``image_idx`` (token of the sample), ``gt_idx``, ``box3d_lidar`` (9,),
        ``num_points_in_gt``, ``difficulty`` (0) and ``group_id``.

    Raises:
        ValueError: for an info file that `CustomNuScenesDataset` refuses, and names in it that are no file names.
    """
    database, index = Path(out_dir) / f'{prefix}_gt_database', Path(out_dir) / f'{prefix}_dbinfos_train.pkl'
    partial = Path(out_dir) / f'.{prefix}_gt_database.part'
    source = dict(info_file_sha256=file_sha256(info_file), sweeps_num=sweeps_num, database=str(database))
    if index.exists() and _source(database) == source:
        print(f'{index}: complete, kept')
        return index
    samples = _SampleObjects(info_file, sweeps_num, partial)
    if _source(partial) != source:
        _start(partial, source)

    missing = [i for i, token in enumerate(samples.tokens) if not samples.record_file(token).exists()]
    written = DataLoader(Subset(samples, missing), batch_size=None, num_workers=workers)
    for _ in tqdm(written, 'ground truth of samples', unit='', total=len(samples), initial=len(samples) - len(missing)):
        pass
    records = _merge(
        [load_pickle(samples.record_file(token), 'record of a sample') for token in samples.tokens], database)

    index.unlink(missing_ok=True)  # a database without its index does not count: the previous one is gone from here on
    if database.exists():
        shutil.rmtree(database)
    partial.rename(database)
    with atomic_path(index) as path:
        mmcv.dump(records, str(path))
    shutil.rmtree(database / RECORDS)
    print(f'{index}: ' + ', '.join(f'{len(objects)} {name}' for name, objects in sorted(records.items())))
    return index


def _check_names(infos):
    """Raise where a sample's token or a class cannot be part of a file name."""
    for info in infos:
        for name in (info['token'], *info['gt_names']):
            if not name or '/' in name or '\\' in name or '\0' in name or name.startswith('.') or len(name) > 100:
                raise ValueError(f'tokens of samples and names of classes become file names: {str(name)!r} of sample '
                                 f'{info["token"]!r} must have 1 to 100 characters, no slash and no dot in front')


def best_crops(corners, lidar2img, image_sizes):
    """Choose for every box the camera that shows the largest share of it, among equals the one that shows it largest.

    Args:
        corners (np.ndarray): (G, 8, 3), LiDAR frame, meters.
        lidar2img (Sequence[np.ndarray]): V (4, 4).
        image_sizes (Sequence[tuple]): V (width, height), pixels.

    Returns:
        tuple[np.ndarray, np.ndarray, np.ndarray]: camera (G,), -1 for none; its rectangle (G, 4) in whole pixels inside
        the image (left, top, right, bottom; right and bottom exclusive); mean depth of the corners (G,), meters.
    """
    projected = [project(corners, matrix) for matrix in lidar2img]
    pixels, depth = (np.stack(parts) for parts in zip(*projected))  # (V, G, 8, 2), (V, G, 8)
    whole = np.floor(np.concatenate([pixels.min(axis=2), pixels.max(axis=2)], axis=-1))  # (V, G, 4), NaN: behind
    sizes = np.asarray(image_sizes)[:, None]  # (V, 1, 2)
    shown = whole.clip(0, np.tile(sizes, 2))
    extent = shown[..., 2:] - shown[..., :2]  # (V, G, 2)
    usable = (extent > MIN_CROP_SHARE * sizes[..., :1]).all(axis=-1)  # (V, G), comparisons with NaN are False
    share = np.divide(extent.prod(axis=-1), (whole[..., 2:] - whole[..., :2]).prod(axis=-1),
                      out=np.full(usable.shape, -1.), where=usable)
    best = np.where(share == share.max(axis=0), extent.prod(axis=-1), -1).argmax(axis=0)  # (G,)
    chosen = best, np.arange(len(corners))
    seen = usable[chosen]
    return (np.where(seen, best, -1), np.where(seen[:, None], shown[chosen], 0).astype(int),
            np.where(seen, depth.mean(axis=-1)[chosen], 0.))


class _SampleObjects(Dataset):
    """Reading item i writes the objects of sample i: points, crops and, when these are there, their records."""

    def __init__(self, info_file, sweeps_num, folder):
        self.dataset = CustomNuScenesDataset(
            ann_file=str(info_file), use_valid_flag=True, filter_empty_gt=False,
            modality=dict(use_lidar=True, use_camera=True),
            pipeline=[
                dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
                dict(type='LoadPointsFromMultiSweeps', sweeps_num=sweeps_num, use_dim=[0, 1, 2, 3, 4], test_mode=True),
                dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True)
            ])
        _check_names(self.dataset.data_infos)
        self.tokens = [info['token'] for info in self.dataset.data_infos]
        self.folder = folder

    def __len__(self):
        return len(self.tokens)

    def record_file(self, token):
        return self.folder / RECORDS / f'{token}.pkl'

    def __getitem__(self, i):
        sample, token = self.dataset.prepare_train_data(i), self.tokens[i]
        boxes, names = sample['gt_bboxes_3d'], sample['ann_info']['gt_names']
        cameras = list(self.dataset.data_infos[i]['cams'])
        points = sample['points'].tensor.numpy()
        inside = box_np_ops.points_in_rbbox(points, boxes.tensor.numpy())  # (P, G)
        images = [read_image(path, 'color') for path in sample['img_filename']]
        crops = best_crops(boxes.corners.numpy(), sample['lidar2img'], [img.shape[1::-1] for img in images])
        records = []
        for j, (name, box, camera, (left, top, right, bottom), depth) in enumerate(
                zip(names.tolist(), boxes.tensor.numpy(), *crops)):
            own = points[inside[:, j]]
            own[:, :3] -= box[:3]
            points_file, image_file = (f'{folder}/{token}_{name}_{j}{suffix}'
                                       for folder, suffix in ((POINTS, '.bin'), (IMAGES, '.png')))
            own.tofile(self.folder / points_file)
            if camera >= 0:
                mmcv.imwrite(images[camera][top:bottom, left:right], str(self.folder / image_file))
            records.append(dict(
                name=name, path=points_file, image_path=image_file if camera >= 0 else '', image_idx=token, gt_idx=j,
                image_crop_key=cameras[camera] if camera >= 0 else '', image_crop_depth=float(depth),
                box3d_lidar=box, num_points_in_gt=len(own), difficulty=0))
        with atomic_path(self.record_file(token)) as path:
            mmcv.dump(records, str(path))
        return len(records)


def _merge(records_of_samples, database):
    """Records by class, with their final paths and numbered groups (each object is one)."""
    merged = {}
    for group_id, record in enumerate(record for records in records_of_samples for record in records):
        for key in ('path', 'image_path'):
            record[key] = record[key] and str(database / record[key])
        merged.setdefault(record['name'], []).append(dict(record, group_id=group_id))
    return merged


def _source(folder):
    """What a database folder was or is being made from; None if there is no such folder."""
    path = folder / SOURCE
    return json.loads(path.read_text()) if path.exists() else None


def _start(folder, source):
    if folder.exists():
        shutil.rmtree(folder)
    for name in (POINTS, IMAGES, RECORDS):
        (folder / name).mkdir(parents=True)
    with atomic_path(folder / SOURCE) as path:
        path.write_text(json.dumps(source))
