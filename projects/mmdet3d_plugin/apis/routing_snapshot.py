"""What a detector with a router did with one sample: all that pictures of it need, as plain arrays."""
import dataclasses
from contextlib import contextmanager
from typing import Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from mmcv.parallel import collate
from mmcv.parallel.scatter_gather import scatter_kwargs
from mmdet3d.core import bbox3d2result
from mmdet3d.core.bbox import BaseInstance3DBoxes
from mmdet3d.datasets import build_dataset
from nuscenes import NuScenes

from ..core.bbox.box_encoding import concat_branches, decode_boxes
from ..core.failure_record import FailureRecord
from ..datasets.sensor_failures import FailureCase
from ..models.utils.aqr.routing_record import regions
from ..models.utils.aqr.supervision import routing_targets
from ..models.utils.attention.attention_bias import AttentionBias
from ..models.utils.geometry import from_unit_range, lidar_to_image_matrices, project_to_views
from ..models.utils.token_layout import MODALITIES, TokenLayout
from ..models.utils.transformer.attention_recorder import AttentionRecorder
from .failing_sensors import with_failure
from .inference import above_threshold, build_frame_dataset, camera_names, ground_truth, input_images

_CANDIDATES = 20  # of the queries with the highest scores, those with the strongest preferences are shown


@dataclasses.dataclass(frozen=True, eq=False)
class RoutingSnapshot:
    """One sample under one failure case, on CPU; Q queries, V views, F tokens.

    Attributes:
        case (FailureCase): what struck it.
        failure (FailureRecord): what it did.
        points (np.ndarray): (N, >= 3) LiDAR points that the detector was given, m.
        images (list[np.ndarray]): V images (H, W, 3) that it was given, RGB, uint8, without their normalization.
        lidar2img (np.ndarray): (V, 4, 4), LiDAR to the pixels of these images, as the detector was told.
        camera_names (list[str]): V names.
        ground_truth (LiDARInstance3DBoxes | None): boxes, None where there are no annotations.
        detections (dict): see `above_threshold`.
        detection_names (list[str]): classes of the detections' labels, those of the data.
        positions (np.ndarray): (Q, 3) reference points of the queries, m.
        pixels (np.ndarray): (Q, V, 2) their projections (u, v), px; they mean nothing where not `seen`.
        seen (np.ndarray): (Q, V) bool.
        lidar_weights, camera_weights (np.ndarray): (Q,) in [0, 1].
        view_weights (np.ndarray): (Q, V) camera weight of each view, see ``RoutingRecord``.
        lidar_lost, cameras_lost (np.ndarray): (Q,) bool, see `RoutingTargets`.
        looks (dict[str, tuple[np.ndarray, np.ndarray]] | None): 'lidar', 'camera' -> (Q,) probability of the best class
            that this sensor alone shows, and (Q,) its label; None of routers that do not look.
        scores, labels, centers (np.ndarray): (Q,) the highest class score, its class, and (Q, 3) its box's center, m.
        class_names (list[str]): of the labels.
        bias (AttentionBias): of shape (1, Q, F).
        attention (Callable): q query numbers -> attention (q, F) with the bias and without, in one decoder layer, mean
            over heads.
        layer (int): which layer that is, from 0.
        layout (TokenLayout): of the tokens.
        pc_range (list[float]): detection range, m.
        bev_cell_size (tuple[float, float]): (x, y), m.
    """

    case: FailureCase
    failure: FailureRecord
    points: np.ndarray
    images: List[np.ndarray]
    lidar2img: np.ndarray
    camera_names: List[str]
    ground_truth: BaseInstance3DBoxes
    detections: Dict
    detection_names: List[str]
    positions: np.ndarray
    pixels: np.ndarray
    seen: np.ndarray
    lidar_weights: np.ndarray
    camera_weights: np.ndarray
    view_weights: np.ndarray
    lidar_lost: np.ndarray
    cameras_lost: np.ndarray
    looks: Optional[Dict[str, Tuple[np.ndarray, np.ndarray]]]
    scores: np.ndarray
    labels: np.ndarray
    centers: np.ndarray
    class_names: List[str]
    bias: AttentionBias
    attention: Callable
    layer: int
    layout: TokenLayout
    pc_range: List[float]
    bev_cell_size: Tuple[float, float]

    @property
    def preference(self):
        """(Q,) LiDAR minus camera weight, in [-1, 1]."""
        return self.lidar_weights - self.camera_weights

    @property
    def lost_cameras(self):
        """Names of the cameras whose image is gone or false."""
        lost = self.failure.views_lost
        return [] if lost is None else [name for name, is_lost in zip(self.camera_names, lost) if is_lost]

    def regions(self):
        """dict[str, np.ndarray]: (Q,) bool masks of the queries by what is lost at their place, together all."""
        return regions(self.lidar_lost, self.cameras_lost)

    def bias_of(self, queries):
        """Dense bias (q, F) of q queries on the scores of all tokens."""
        bias = self.bias
        parts = dict(values=bias.values[..., queries, :])
        if bias.is_local:
            parts.update(cells=bias.cells[:, queries], seen=bias.seen[:, queries])
        dense = dataclasses.replace(bias, **parts).dense()  # (1, q, F)
        return dense[0].numpy()

    def peak_bias(self):
        """(Q, 2) bias on LiDAR and camera tokens where it is largest: everywhere, or at the window's center."""
        values = self.bias.values[0]  # (Q, S), first the BEV map
        if self.bias.is_local:
            windowed = torch.tensor([window is not None for window in self.bias.windows])
            values = values * (self.bias.seen[0] | ~windowed)
        camera = values[:, 1:].gather(1, values[:, 1:].abs().argmax(dim=1, keepdim=True))  # (Q, 1)
        return torch.cat([values[:, :1], camera], dim=1).numpy()

    def on_maps(self, tokens):
        """Values (..., F) of tokens as a BEV map (..., H, W), rows along y, and views (..., V, h, w)."""
        bev, views = np.split(tokens, [self.layout.num_bev], axis=-1)
        leading = tokens.shape[:-1]
        return bev.reshape(*leading, *self.layout.bev_shape), views.reshape(*leading, *self.layout.view_shape)

    @property
    def bev_extent(self):
        """(left, right, bottom, top) of the BEV map, m, which may differ from the range (docs/design.md, "Cells and
        views").
        """
        (height, width), (size_x, size_y) = self.layout.bev_shape, self.bev_cell_size
        left, bottom = self.pc_range[:2]
        return left, left + width * size_x, bottom, bottom + height * size_y


def check_routes(cfg):
    """Raise ValueError, with a hint, for the config of a model without router."""
    if not cfg.model.get('pts_bbox_head', {}).get('enable_aqr'):
        raise ValueError('the model has no router to look at: model.pts_bbox_head.enable_aqr is False. Take a config '
                         'with AQR (configs/cmt_aqr_*.py), or --cfg-options model.pts_bbox_head.enable_aqr=True; a '
                         'checkpoint without router weights then gets a neutral router')


def build_case_dataset(cfg, case, frame=None, seed=0):
    """Test data on which a failure strikes.

    Args:
        cfg (mmcv.Config): from `load_config`.
        case (FailureCase | str): see `with_failure`.
        frame (str | None): folder of frames (see `FrameFolderDataset`) instead of the config's test data.
        seed (int): of the failure.

    Returns:
        Dataset: in test mode, samples with their failure record.

    Raises:
        ValueError: see `with_failure` and the datasets.
    """
    cfg = with_failure(cfg, case, seed)
    return build_dataset(cfg.data.test, dict(test_mode=True)) if frame is None else build_frame_dataset(cfg, frame)


def sample_tokens(dataset):
    """Token of every sample of a nuScenes dataset or a frame folder."""
    return [str(info.get('token', info.get('sample_idx', index))) for index, info in enumerate(dataset.data_infos)]


def find_sample(tokens, sample):
    """Index of a sample.

    Args:
        tokens (list[str]): of all samples.
        sample (str): a token or an index.

    Raises:
        ValueError: neither.
    """
    if sample in tokens:
        return tokens.index(sample)
    if sample.isdecimal() and int(sample) < len(tokens):
        return int(sample)
    raise ValueError(f'no sample {sample!r} in the test data: allowed are indices 0 to {len(tokens) - 1} and tokens, '
                     f'such as {tokens[0]}')


def samples_of_scene(dataset, scene):
    """Indices of the samples of a scene, in the order of time.

    Args:
        dataset (CustomNuScenesDataset): whose tables name the scenes.
        scene (str): name of one.

    Raises:
        ValueError: the dataset has no tables, or no sample of that scene.
    """
    if not hasattr(dataset, 'version'):
        raise ValueError('scenes are those of nuScenes: data.test must be a CustomNuScenesDataset, got '
                         f'{type(dataset).__name__}')
    nusc = NuScenes(dataset.version, dataset.data_root, verbose=False)
    scene_of = {row['token']: nusc.get('scene', row['scene_token'])['name'] for row in nusc.sample}
    names = [scene_of.get(token) for token in sample_tokens(dataset)]
    if scene not in names:
        raise ValueError(f'no sample of scene {scene!r} in the test data: its scenes are '
                         f'{", ".join(sorted(set(filter(None, names))))}')
    return [index for index, name in enumerate(names) if name == scene]


def check_queries(queries, num_query):
    """Raise ValueError for query numbers that do not exist or repeat."""
    unknown = [query for query in queries if not 0 <= query < num_query]
    if unknown or len(set(queries)) < len(queries):
        raise ValueError(f'queries must be different numbers from 0 to {num_query - 1}, got {list(queries)}')


@torch.no_grad()
def take_snapshot(model, dataset, index, layer=-1, score_thr=0.3):
    """Run a detector on one sample and keep what its router did.

    Whatever the pipeline draws at random, such as sweeps, is the same in every call: cases of a sample differ in
    nothing but their failure.

    Args:
        model (CmtDetector): with a router, in evaluation mode, on its device.
        dataset (Dataset): from `build_case_dataset`.
        index (int): of the sample.
        layer (int): decoder layer whose attention is kept, negative ones count from the last.
        score_thr (float): least score of a detection.

    Returns:
        RoutingSnapshot

    Raises:
        ValueError: no such layer; or the sample comes without points or images, so that nothing was routed.
    """
    head = model.pts_bbox_head
    layers = head.transformer.decoder.num_layers
    if not -layers <= layer < layers:
        raise ValueError(f'layer must lie in [{-layers}, {layers - 1}], got {layer}')
    device = next(model.parameters()).device
    with _fixed_draws():
        batch = collate([dataset[index]], samples_per_gpu=1)
    _, (batch, ) = scatter_kwargs((), batch, [device.index or 0] if device.type == 'cuda' else [-1])
    points, metas, img = (batch[name][0] if name in batch else None for name in ('points', 'img_metas', 'img'))
    if points is None or img is None:
        raise ValueError(f'samples need points and images for anything to be routed; data.test gives {sorted(batch)}')
    img_feats, pts_feats = model.extract_feat(points, img, metas)
    with AttentionRecorder(head, num_queries=1, keep_maps=True) as recorder:
        outs = head(pts_feats, img_feats, metas, model.blank_features(points, img, metas))
    (result, ) = (bbox3d2result(*result) for result in head.get_bboxes(outs, metas))
    routing = outs[0][0]['routing']
    targets = routing_targets(routing, metas, head.pc_range, head.bev_cell_size)
    positions = from_unit_range(routing.reference_points.float(), head.pc_range)  # (1, Q, 3)
    pixels, _ = project_to_views(positions, lidar_to_image_matrices(metas, positions)[0])  # (1, V, Q, 2)
    scores, labels, centers = _best_class(outs)

    def attention(queries):
        maps = recorder.attention_maps(layer, queries)
        return tuple(part[0].mean(dim=0).cpu().numpy() for part in (maps.biased, maps.unbiased))  # (q, F)

    def plain(tensor):
        return tensor[0].cpu().numpy()

    return RoutingSnapshot(
        case=FailureCase.parse(metas[0]['failure'].case), failure=metas[0]['failure'], points=points[0].cpu().numpy(),
        images=input_images(img[0], metas[0]), lidar2img=np.stack(metas[0]['lidar2img']),
        camera_names=camera_names(dataset, index), ground_truth=ground_truth(dataset, index),
        detections=above_threshold(result, score_thr), detection_names=list(dataset.CLASSES),
        positions=plain(positions), pixels=plain(pixels.transpose(1, 2)),
        seen=plain(routing.projections.pts_pers_valid), looks=_verdicts(routing.looks),
        lidar_weights=plain(routing.lidar_weights), camera_weights=plain(routing.camera_weights),
        view_weights=plain(routing.weights_of_views()),
        lidar_lost=plain(targets.lidar_lost), cameras_lost=plain(targets.cameras_lost), scores=scores, labels=labels,
        centers=centers, class_names=[name for names in head.class_names for name in names], bias=_on_cpu(routing.bias),
        attention=attention, layer=layer % layers, layout=recorder.layout, pc_range=head.pc_range,
        bev_cell_size=head.bev_cell_size)


def choose_queries(snapshots, count=3):
    """A few informative queries of one sample.

    Args:
        snapshots (Sequence[RoutingSnapshot]): the sample under all its cases.
        count (int): how many.

    Returns:
        list[int]: of the 20 queries with the highest scores in any case, those with the strongest preferences in any
        case; where preferences are equal, the higher score comes first.
    """
    scores = np.max([snapshot.scores for snapshot in snapshots], axis=0)
    strength = np.max([np.abs(snapshot.preference) for snapshot in snapshots], axis=0)
    best = np.argsort(-scores, kind='stable')[:max(count, _CANDIDATES)]
    return best[np.argsort(-strength[best], kind='stable')][:count].tolist()


@contextmanager
def _fixed_draws():
    """Numpy's global random numbers start from seed 0 inside, and go on outside as if nothing had been drawn."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def _best_class(outs):
    """Highest class score (Q,), its class (Q,) and the center (Q, 3) that its task detects, in the last layer."""
    tasks = [task[0] for task in outs]
    logits = [task['cls_logits'][-1, 0] for task in tasks]
    scores, labels = torch.cat(logits, dim=-1).float().sigmoid().max(dim=-1)  # (Q,)
    task_of_class = torch.cat([labels.new_full((logit.shape[-1], ), number) for number, logit in enumerate(logits)])
    centers = torch.stack([decode_boxes(concat_branches(task, layer=-1)[0])[:, :3] for task in tasks])  # (T, Q, 3)
    centers = centers[task_of_class[labels], torch.arange(len(labels), device=labels.device)]  # (Q, 3)
    return tuple(values.cpu().numpy() for values in (scores, labels, centers))


def _verdicts(looks):
    """``looks`` of a :class:`RoutingSnapshot`."""
    return looks and {sensor: tuple(values[0].cpu().numpy() for values in looks.verdicts(sensor))
                      for sensor in MODALITIES}


def _on_cpu(bias):
    parts = {name: getattr(bias, name) for name in ('values', 'cells', 'seen')}
    return dataclasses.replace(bias, **{name: part.detach().cpu() for name, part in parts.items() if part is not None})
