"""The small checkpoint to hand out, made from one that training wrote."""
import hashlib
import io
from collections import OrderedDict
from pathlib import Path

import torch

from ..utils.atomic_file import atomic_path
from ..utils.content_hash import file_sha256
from ..utils.plain_values import plain_values
from .checkpoint import TRAINING_PREFIX, averaging_keys, check_numbers, read_checkpoint

_KEPT_META = ('CLASSES', 'exp_name', 'seed', 'epoch', 'iter', 'config', 'mmdet_version', 'mmdet3d_version')

_EXACT = 'familiar_'  # statistics of a router, whose inverse covariance spans many orders of magnitude


def publish_checkpoint(source, target, notes=None, trust_checkpoint=False):
    """Write the weights of a checkpoint in half precision, without optimizer, random states and auxiliary heads.

    Models read such a file like any other; their weights stay in single precision, rounded to 11 bits. Of a training
    with an EMA hook the averaged weights are kept, those that it evaluated.

    Args:
        source (str | Path): checkpoint as training writes it.
        target (str | Path): file to write, but for its hash: as mm's published files, and as torch.hub checks them,
            `small.pth` becomes `small-<8 digits of its SHA-256>.pth`. It appears whole or not at all.
        notes (dict[str, str] | None): further entries of its `meta`.
        trust_checkpoint (bool): see `read_checkpoint`.

    Returns:
        tuple[Path, dict]: the file, and its `meta`: what training wrote of classes, config, seed, epochs and
        iterations, `source_sha256`, and the notes.

    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint` and `check_numbers`; a weight that exceeds half precision;
            notes that `meta` has already.
    """
    checkpoint = read_checkpoint(source, trusted=trust_checkpoint)
    given = checkpoint.get('meta') or {}
    meta = plain_values({key: given[key] for key in _KEPT_META if key in given})
    meta['source_sha256'] = file_sha256(source)
    taken = sorted(set(meta) & set(notes or {}))
    if taken:
        raise ValueError(f'notes must have names of their own, {taken} are written anyway')
    meta.update(notes or {})

    state_dict = checkpoint['state_dict']
    copies = set(averaging_keys(state_dict))
    kept = {key: value for key, value in state_dict.items()
            if key not in copies and not key.startswith(TRAINING_PREFIX)}
    check_numbers(kept, str(source))
    weights = OrderedDict((key, _half(key, value)) for key, value in kept.items())
    if hasattr(state_dict, '_metadata'):  # the format versions of modules, see `read_checkpoint`
        weights._metadata = OrderedDict((module, value) for module, value in state_dict._metadata.items()
                                        if not f'{module}.'.startswith(TRAINING_PREFIX))
    buffer = io.BytesIO()  # in a file, torch would also write that file's name
    torch.save(dict(meta=meta, state_dict=weights), buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    path = Path(target)
    path = path.with_name(f'{path.stem}-{digest[:8]}{path.suffix}')
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
        read_checkpoint(temporary)  # needs no trust
    return path, meta


def _half(key, value):
    if not value.is_floating_point() or f'.{_EXACT}' in key:
        return value
    half = value.half()
    if not torch.isfinite(half).all():
        raise ValueError(f'{key} does not fit into half precision: its largest magnitude is {value.abs().max():g}, '
                         f'allowed: {torch.finfo(half.dtype).max:g}')
    return half
