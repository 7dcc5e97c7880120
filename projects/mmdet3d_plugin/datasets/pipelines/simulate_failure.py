import numpy as np
import torch
from mmdet.datasets.builder import PIPELINES

from ..sensor_failures import CLEAN, FailureCase, failure_rng


@PIPELINES.register_module()
class SimulateFailure:
    """Let a sensor failure strike the sample (docs/design.md, "Sensor failures"); adds ``failure`` (FailureRecord).

    Its place is after the loaders and after pasted objects, where published pipelines have ``ModalMask3D``, whose 50 /
    25 / 25 % are ``cases={'clean': 0.5, 'camera_drop': 0.25, 'lidar_drop': 0.25}``. The record says what was done. It
    reaches the model if ``Collect3D`` has 'failure' among its ``meta_keys``. Transforms that move the scene later note
    this in the record.

    The draw depends on the sample's token, the case, ``seed``, the epoch and, with a dataset that counts repetitions
    of a sample (``FrameFolderDataset``), its ``repetition``. It does not depend on workers, processes or other
    transforms. The tools set the epoch at the start of each training epoch; elsewhere it is 0. Wrappers that repeat
    samples (CBGSDataset, RepeatDataset) do not count repetitions: within an epoch all copies meet the same failure.

    Args:
        cases (str | dict[str, float]): one case for all samples, see ``FailureCase.parse``, or a probability for each
            of several, together 1; 'clean' is a case like the others.
        seed (int): another seed gives other draws.

    Raises:
        ValueError: for cases that do not exist or probabilities that are not >= 0 with a sum of 1.
    """

    def __init__(self, cases=CLEAN, seed=0):
        if not isinstance(cases, (str, dict)):
            raise ValueError(f'cases must be a case or a dict of cases and probabilities, got {cases!r}')
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(f'seed must be an integer, got {seed!r}')
        shares = dict(cases) if isinstance(cases, dict) else {cases: 1.0}
        self.cases = [FailureCase.parse(case) for case in shares]
        values = np.array(list(shares.values()), dtype=float)
        if not len(values) or not (values >= 0).all() or abs(values.sum() - 1) > 1e-6:
            raise ValueError(f'cases must have probabilities >= 0 with a sum of 1, got the sum {values.sum():g} of '
                             f'{shares}')
        self.shares = shares
        self.seed = seed
        # Shared, so that persistent workers see the epoch that the main process sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def needs(self):
        """frozenset[str]: all that its cases need, see ``register_failure``."""
        return frozenset().union(*(case.needs for case in self.cases))

    def set_epoch(self, epoch):
        """Draw anew for an epoch >= 0 of training."""
        self._epoch.fill_(epoch)

    def __call__(self, results):
        seed = self.seed, self._epoch.item()
        if results.get('repetition'):
            seed = *seed, results['repetition']
        draw = failure_rng(results['sample_idx'], 'case', *seed).random()
        # The last case of a probability above 0 takes what rounding leaves.
        limits = np.cumsum(list(self.shares.values()))
        limits[np.flatnonzero(np.diff(limits, prepend=0))[-1]:] = 1
        case = self.cases[np.searchsorted(limits, draw, side='right')]
        results['failure'] = case.strike(results, *seed)
        for name in ('rings', 'other_samples'):
            results.pop(name, None)
        return results

    def __repr__(self):
        return f'{type(self).__name__}(cases={self.shares}, seed={self.seed})'
