"""Random number generators travel with the checkpoint, so that a resumed run equals an uninterrupted one."""
import base64
import random

import numpy as np
import torch
import torch.distributed as dist
from mmcv.runner import HOOKS, Hook


def _encode(words):
    return base64.b64encode(words.tobytes()).decode('ascii')


def _decode(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype=dtype)


def get_rng_state():
    """States of python's, numpy's and torch's default generators (CPU and, where there is one, the current GPU).

    Returns:
        dict: strings, numbers and None only: `torch.load(weights_only=True)` reads it and mmcv's JSON log can write it.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return dict(
        python=dict(version=version, words=_encode(np.array(words, dtype=np.uint32)), gauss=gauss),
        numpy=dict(name=name, keys=_encode(keys), position=position, has_gauss=has_gauss, cached=cached),
        torch=_encode(torch.get_rng_state().numpy()),
        cuda=_encode(torch.cuda.get_rng_state().numpy()) if torch.cuda.is_available() else None)


def set_rng_state(state):
    """Restore what `get_rng_state` returned; the GPU's generator only where the state holds one and a GPU is there."""
    python, numpy = state['python'], state['numpy']
    random.setstate((python['version'], tuple(_decode(python['words'], np.uint32).tolist()), python['gauss']))
    keys = _decode(numpy['keys'], np.uint32)
    np.random.set_state((numpy['name'], keys, numpy['position'], numpy['has_gauss'], numpy['cached']))
    torch.set_rng_state(torch.from_numpy(_decode(state['torch'], np.uint8).copy()))
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(_decode(state['cuda'], np.uint8).copy()))


@HOOKS.register_module()
class RNGStateHook(Hook):
    """Start every epoch with the random state in which the previous one ended, in this run or in the one resumed from.

    The states of all processes are gathered when an epoch ends and stand in the checkpoint's `meta['rng_states']`, one
    a rank. They are restored before every epoch, not only after resumption: then evaluation between two epochs, which
    draws numbers too, leaves no trace in training. Workers of data loaders are seeded by torch from the restored state
    whenever they start, which is at each epoch unless they are persistent.

    Register it with priority 'LOWEST': after the optimizer step of the last iteration, before checkpoints (which are
    written later, in `after_train_epoch`), and after evaluations that start an epoch.
    """

    def before_run(self, runner):
        if runner.meta is None:
            runner.meta = {}
        states = runner.meta.get('rng_states')  # present only after resumption
        if states is not None and len(states) == runner.world_size:
            return
        if states is not None:
            runner.logger.warning(f'RNG states of {len(states)} processes cannot be restored in {runner.world_size}: '
                                  'the resumed run will not repeat the interrupted one exactly')
        elif runner.epoch > 0:
            runner.logger.warning('the checkpoint holds no RNG states: '
                                  'the resumed run will not repeat the interrupted one exactly')
        self._gather(runner)

    def before_train_epoch(self, runner):
        set_rng_state(runner.meta['rng_states'][runner.rank])

    def after_train_iter(self, runner):
        if self.end_of_epoch(runner):
            self._gather(runner)

    @staticmethod
    def _gather(runner):
        own = get_rng_state()
        states = [own] * runner.world_size
        if runner.world_size > 1:
            dist.all_gather_object(states, own)
        runner.meta['rng_states'] = states
