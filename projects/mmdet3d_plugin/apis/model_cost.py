"""What the parts of a detector cost: parameters, floating-point operations, time."""
import statistics
import time
from contextlib import contextmanager

import torch
from mmcv.parallel import collate
from mmcv.parallel.scatter_gather import scatter_kwargs
from torch.utils.flop_counter import FlopCounterMode

from .checkpoint import ROUTER_PREFIX

_BRANCHES = {'image branch': ('img_', ), 'LiDAR branch': ('pts_voxel_', 'pts_middle_', 'pts_backbone', 'pts_neck')}


def model_cost(model, sample, device, runs=5):
    """Cost of one sample by part. Two whole passes, one that counts and one that warms up, precede `runs` timed ones.

    Convolutions of spconv are not counted as operations. Routing is what the head does more than without it: looks,
    router, and the bias in every layer.

    Args:
        model (CmtDetector): in evaluation mode; moved to `device`.
        sample (dict): from a dataset in test mode.
        device (str): 'cpu' or 'cuda'.
        runs (int): timed passes, of which the median counts, >= 1.

    Returns:
        list[dict]: rows with `part`, `parameters (M)`, `GFLOPs` (a multiplication and an addition are two), `ms`
        and `frames/s` (of the part by itself); the last row is of the whole detector.

    Raises:
        ValueError: a device that torch does not see.
    """
    if torch.device(device).type == 'cuda' and not torch.cuda.is_available():
        raise ValueError(f'device {device!r}: torch sees no CUDA; allowed here: cpu')
    model = model.to(device)
    batch = _on_device(sample, device)
    steps = _steps(model, batch)
    with torch.no_grad():
        flops = {name: _flops(step) for name, step in steps.items()}
        for step in steps.values():
            step()
        seconds = {name: statistics.median(_seconds(step, device) for _ in range(runs))
                   for name, step in steps.items()}
    rows = [_row(name, _parameters(model, name), flops[name], seconds[name])
            for name in steps if name != 'head with routing']
    if 'head with routing' in steps:
        extra = (values['head with routing'] - values['head'] for values in (flops, seconds))
        rows.append(_row('routing', _parameters(model, 'routing'), *(max(0, value) for value in extra)))
    total = 'head with routing' if 'head with routing' in steps else 'head'
    whole = [sum(values[name] for name in steps if name in (*_BRANCHES, total)) for values in (flops, seconds)]
    return [*rows, _row('detector', sum(p.numel() for p in model.parameters()), *whole)]


def _steps(model, batch):
    """The parts of a detector as functions without arguments, those that it has; the head works on their features."""
    points, metas, img = (batch[name][0] if name in batch else None for name in ('points', 'img_metas', 'img'))
    head = model.pts_bbox_head
    steps = {}
    if model.with_img_backbone and img is not None:
        steps['image branch'] = lambda: model.extract_img_feat(img, metas)
    if model.with_pts_backbone and points is not None:
        steps['LiDAR branch'] = lambda: model.extract_pts_feat(points, None, metas)
    with torch.no_grad():
        img_feats, pts_feats = model.extract_feat(points, img, metas)
        blank_feats = model.blank_features(points, img, metas)

    def detect():
        return head.get_bboxes(head(pts_feats, img_feats, metas, blank_feats), metas)

    def detect_without_routing():
        with _without_routing(head):
            return detect()

    steps['head'] = detect_without_routing
    if head.enable_aqr and img_feats is not None and pts_feats is not None:
        steps['head with routing'] = detect
    return steps


@contextmanager
def _without_routing(head):
    routes = head.enable_aqr
    head.enable_aqr = False
    try:
        yield
    finally:
        head.enable_aqr = routes


def _on_device(sample, device):
    batch = collate([sample], samples_per_gpu=1)
    index = torch.device(device).index or 0 if torch.device(device).type == 'cuda' else -1
    return scatter_kwargs((), batch, [index])[1][0]


def _flops(step):
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def _seconds(step, device):
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device):
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def _parameters(model, part):
    """Number of the parameters of a part."""
    def belongs(name):
        if part in _BRANCHES:
            return name.startswith(_BRANCHES[part])
        return name.startswith('pts_bbox_head.') and name.startswith(ROUTER_PREFIX) == (part == 'routing')
    return sum(parameter.numel() for name, parameter in model.named_parameters() if belongs(name))


def _row(part, parameters, flops, seconds):
    return {'part': part, 'parameters (M)': parameters / 1e6, 'GFLOPs': flops / 1e9, 'ms': seconds * 1e3,
            'frames/s': 1 / seconds if seconds else float('nan')}
