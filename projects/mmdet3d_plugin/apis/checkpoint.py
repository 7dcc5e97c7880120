"""Reading checkpoints safely, and fitting their weights to a model with every difference accounted for."""
import hashlib
import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urlparse

import torch
from mmcv.parallel import is_module_wrapper
from mmcv.runner.checkpoint import load_state_dict as load_matching_weights
from mmcv.utils import print_log

from .storage_records import check_storage_records

# Where all parameters live that AQR adds to a CMT model (docs/design.md, "Contracts").
ROUTER_PREFIX = 'pts_bbox_head.aqr_'

TRAINING_PREFIX = 'auxiliary_heads.'  # parameters of losses alone, which a checkpoint may lack


def read_checkpoint(path, map_location='cpu', trusted=False):
    """Read a checkpoint file without running code hidden in it.

    Args:
        path (str | Path): a file, or an http(s) address, which is downloaded to torch's cache once.
        map_location: see `torch.load`.
        trusted (bool): unpickle arbitrary Python objects as well. Only for files whose origin you trust.

    Returns:
        dict: as saved by mmcv, with at least `state_dict`; a bare state dict is wrapped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read or downloaded, lacks bytes, needs `trusted`, or holds no state dict.
    """
    file = _downloaded(str(path)) if str(path).startswith(('http://', 'https://')) else Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f'checkpoint not found: {path}')
    check_storage_records(file)
    try:
        checkpoint = torch.load(file, map_location=map_location, weights_only=not trusted)
    except pickle.UnpicklingError as error:
        if trusted:
            raise ValueError(f'checkpoint {path} cannot be read: {error}') from error
        refused = re.search(r'GLOBAL (\S+)', str(error))
        raise ValueError(
            f'checkpoint {path} is damaged or holds Python objects besides tensors and plain values'
            f'{f" ({refused.group(1)})" if refused else ""}. Reading such objects can run code hidden in the file; '
            'if you trust its origin, pass --trust-checkpoint (trusted=True)') from error
    except (RuntimeError, EOFError, UnicodeError) as error:
        raise ValueError(f'checkpoint {path} cannot be read, it may be damaged: {error}') from error
    if isinstance(checkpoint, dict) and 'state_dict' not in checkpoint:
        checkpoint = dict(state_dict=checkpoint)
    state_dict = checkpoint['state_dict'] if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(state_dict, dict) or not state_dict or not all(
            isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise ValueError(f'checkpoint {path} holds no state dict (names and tensors), but a {type(state_dict).__name__}'
                         f'{f" with keys {list(state_dict)[:5]}" if isinstance(state_dict, dict) else ""}')
    checkpoint['state_dict'] = _without_wrapper_prefix(state_dict)
    return checkpoint


def _downloaded(address):
    """Path of an address in torch's cache. Addresses may end in the same file name: that of the cache tells them apart.
    """
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    name = os.path.basename(unquote(urlparse(address).path)) or 'checkpoint.pth'
    file = folder / f'{hashlib.sha256(address.encode()).hexdigest()[:16]}_{name}'
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(file), progress=False)  # appears whole or not at all
        except URLError as error:
            raise ValueError(f'checkpoint {address} cannot be downloaded: {error}') from error
    return file


def check_numbers(state_dict, source='the state dict'):
    """Raise ValueError where weights are NaN or infinite, or variances of BatchNorm negative, and name them all."""
    wrong = [key for key, value in state_dict.items()
             if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    negative = [key for key, value in state_dict.items()
                if key.rpartition('.')[2] == 'running_var' and bool((value < 0).any())]
    problems = [f'{what}: {", ".join(keys)}' for what, keys in (
        ('NaN or infinite', wrong), ('negative variances', negative)) if keys]
    if problems:
        raise ValueError(f'{source} holds numbers that no model can use. {"; ".join(problems)}')


def averaging_keys(state_dict):
    """Keys of the second copy of weights that mm's EMA hooks keep in a checkpoint as `ema_<name of the weight>`.

    The hooks swap both copies before they save: the averaged weights have the model's own names, the copy holds those
    that training goes on with.
    """
    copies = {f'ema_{key.replace(".", "_")}' for key in state_dict}
    return [key for key in state_dict if key in copies]


def check_resumable(checkpoint, source, optimizer=True):
    """Raise ValueError where a checkpoint lacks the counters or the optimizer's state to go on with training."""
    missing = sorted({'epoch', 'iter'} - set(checkpoint.get('meta') or {}))
    if missing or (optimizer and 'optimizer' not in checkpoint):
        raise ValueError(f'{source} cannot be resumed from: it holds weights but no {missing or "optimizer state"}; to '
                         'start a new training from its weights use --cfg-options load_from=FILE')


def _without_wrapper_prefix(state_dict, prefix='module.'):
    """Drop the prefix of data-parallel wrappers from keys and from `_metadata`.

    The metadata holds the format version of each module. Without it mmdet3d's sparse convolutions take their weights
    to be in the axis order of spconv 1.x and permute them.
    """
    renamed = OrderedDict((key.removeprefix(prefix), value) for key, value in state_dict.items())
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is not None:
        renamed._metadata = OrderedDict(
            (key.removeprefix(prefix) if key != prefix[:-1] else '', value) for key, value in metadata.items())
    return renamed


def _unwrapped(model):
    return model.module if is_module_wrapper(model) else model


def _without_copies(state_dict, own, source, logger):
    """A copy of a state dict and its metadata, without the `averaging_keys` that a model's own keys lack."""
    copies = {key for key in averaging_keys(state_dict) if key not in own}
    if copies:
        print_log(f'{source} was written with an EMA hook: its averaged weights are loaded, and the {len(copies)} that '
                  'its training goes on with (ema_...) left out', logger)
    kept = OrderedDict((key, value) for key, value in state_dict.items() if key not in copies)
    kept._metadata = OrderedDict(getattr(state_dict, '_metadata', {}))
    return kept


def has_router(path, trusted=False):
    """Whether a checkpoint file has weights of a router; `trusted` as for `read_checkpoint`."""
    return any(key.startswith(ROUTER_PREFIX) for key in read_checkpoint(path, trusted=trusted)['state_dict'])


def _misfit_hint(state_dict, own_router, given_router, drop_router):
    """What may help where weights do not fit; `own_router` and `given_router` are keys of model and file."""
    hint = '' if hasattr(state_dict, '_metadata') else (
        '\n\tThe file has no version metadata: sparse convolutions were taken to be in the layout of spconv 1.x.')
    if given_router and not own_router and drop_router is False:
        hint += '\n\tIts router weights can be left out with --drop-router (drop_router=True).'
    if own_router and given_router and own_router != given_router:
        hint += ("\n\tIts router is of another kind or has other options than the model's: compare aqr_router, "
                 'aqr_weight_map and aqr_strength_per_head with the config that it was trained with.')
    return hint


def _without_router(state_dict):
    """A copy of a state dict and its metadata without the weights of a router."""
    kept = OrderedDict((key, value) for key, value in state_dict.items() if not key.startswith(ROUTER_PREFIX))
    if hasattr(state_dict, '_metadata'):
        kept._metadata = state_dict._metadata
    return kept


def load_weights(model, state_dict, source='the state dict', router_missing_ok=False, missing_ok=(), drop_router=None,
                 new_router=False, logger=None):
    """Load weights into a model that must fit them exactly, but for the auxiliary heads, which serve training only and
    keep their initial values where missing, the copies of an EMA hook (`averaging_keys`), which are left out where the
    model has no place for them, and the exceptions named here.

    Args:
        model (nn.Module): receives the weights; wrappers are looked through.
        state_dict (dict): from `read_checkpoint`.
        source (str): name of its origin for messages.
        router_missing_ok (bool): a state dict without any router weights (a CMT checkpoint) fits an AQR model, whose
            router keeps its initial, neutral weights.
        missing_ok (Sequence[str]): modules whose weights the state dict may lack, wholly or in part (the router only
            wholly); they keep their initial values.
        drop_router (bool | None): leave out the router weights of an AQR checkpoint where the model has no router.
            None: the caller offers no such choice, and errors do not propose it.
        new_router (bool): leave out the router weights in any case; the model's router stays as initialized.
        logger (logging.Logger | str | None): told about missing and dropped weights, see `mmcv.utils.print_log`.

    Raises:
        ValueError: any other difference; lists all missing and unexpected keys and all shapes that differ. Weights that
            are not finite, see `check_numbers`.
    """
    model = _unwrapped(model)
    if new_router:
        state_dict, router_missing_ok = _without_router(state_dict), True
    own = model.state_dict()
    own_router = [key for key in own if key.startswith(ROUTER_PREFIX)]
    given_router = [key for key in state_dict if key.startswith(ROUTER_PREFIX)]
    prefixes = tuple(f'{module}.' for module in missing_ok) + (TRAINING_PREFIX, )
    if router_missing_ok:
        prefixes += (ROUTER_PREFIX, )
    absent = [key for key in own if key not in state_dict and key.startswith(prefixes)
              and not (given_router and key in own_router)]

    fitted = _without_copies(state_dict, own, source, logger)
    check_numbers(fitted, source)
    for key in absent:  # with the format version of its module, see `_without_wrapper_prefix`
        fitted[key] = own[key]
        module = key.rpartition('.')[0]
        fitted._metadata[module] = own._metadata[module]
    if own_router and set(own_router) <= set(absent):
        print_log(f'{source} has no router weights: the router stays as initialized (neutral)', logger)
    heads = sorted({key.split('.')[1] for key in absent if key.startswith(TRAINING_PREFIX)})
    if heads:
        print_log(f'{source} lacks auxiliary heads, which serve training alone: {", ".join(heads)}', logger)
    rest = [key for key in absent if key not in own_router and not key.startswith(TRAINING_PREFIX)]
    if rest:
        print_log(f'{source} lacks weights that stay as initialized: {", ".join(rest)}', logger)
    if given_router and not own_router and drop_router:
        for key in given_router:
            del fitted[key]
        print_log(f'the model has no router: dropped {len(given_router)} router weights of {source}', logger)
    try:
        model.load_state_dict(fitted, strict=True)
    except RuntimeError as error:
        hint = _misfit_hint(state_dict, set(own_router), set(given_router), drop_router)
        raise ValueError(f'{source} does not fit the model. {error}{hint}') from error


def load_pretrained(model, state_dict, source='the state dict', logger=None):
    """Load what fits of a state dict, as for a pretrained backbone; what does not fit is logged (mmcv's `load_from`).

    A model with `train_only` must find the weights of all that it freezes: see `load_weights`, with `train_only` as
    `missing_ok`.

    Raises:
        ValueError: nothing fits, or not all that is frozen; or what fits is not finite, see `check_numbers`.
    """
    model = _unwrapped(model)
    if getattr(model, 'train_only', None) is not None:
        load_weights(model, state_dict, source, missing_ok=model.train_only, logger=logger)
        return
    own = model.state_dict()
    # Compared by size, because sparse convolutions of spconv 1.x are permuted while they load.
    fitting = [key for key, value in state_dict.items() if key in own and own[key].numel() == value.numel()]
    if not fitting:
        first = [sorted({key.split('.')[0] for key in keys}) for keys in (state_dict, own)]
        raise ValueError(f'load_from: none of the {len(state_dict)} weights of {source} fits the model; its keys start '
                         f'with {first[0]}, those of the model with {first[1]}')
    check_numbers({key: state_dict[key] for key in fitting}, source)
    load_matching_weights(model, state_dict, strict=False, logger=logger)
    print_log(f'loaded {len(fitting)} of {len(state_dict)} weights of {source}', logger)
