"""Which views of a sample a failure strikes."""
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np


@dataclass(frozen=True)
class ViewChoice:
    """So many random views, each with a probability, those of the cameras named, or all.

    Attributes:
        count: number of random views, None for other choices.
        probability: with which each view is struck, above 0 and below 1; None for other choices.
        cameras: names of cameras; empty for other choices. Without any choice: all views.

    Raises:
        ValueError: if several are given, for a count below 1, a probability that is none, or names that are empty or
            repeated; in ``choose``, if the sample has fewer or other cameras.
    """

    count: Optional[int] = None
    probability: Optional[float] = None
    cameras: Tuple[str, ...] = ()

    def __post_init__(self):
        given = (self.count is not None) + (self.probability is not None) + bool(self.cameras)
        if given > 1 or (self.count is not None and self.count < 1) or not all(self.cameras) \
                or (self.probability is not None and not 0 < self.probability < 1) \
                or len(set(self.cameras)) < len(self.cameras):
            raise ValueError('views must be a count >= 1, a probability above 0 and below 1, different names of '
                             f'cameras, or all, got {self}')

    @classmethod
    def parse(cls, text='all'):
        """A count, a probability, names with commas between them, or 'all'."""
        if text == 'all':
            return cls()
        try:
            number = float(text)
        except ValueError:
            return cls(cameras=tuple(text.split(',')))
        return cls(count=int(text)) if text.isdigit() else cls(probability=number)

    @property
    def needs(self):
        return ('img', 'camera_names') if self.cameras else ('img', )

    def choose(self, results, rng):
        """(V,) bool: the views of a sample that the failure strikes."""
        chosen = np.zeros(len(results['img']), dtype=bool)
        if self.cameras:
            names = list(results['camera_names'])
            unknown = sorted(set(self.cameras) - set(names))
            if unknown:
                raise ValueError(f'the sample has no cameras {unknown}, but {names}')
            chosen[[names.index(name) for name in self.cameras]] = True
        elif self.probability is not None:
            chosen = rng.random(len(chosen)) < self.probability
        elif self.count is None:
            chosen[:] = True
        elif self.count > len(chosen):
            raise ValueError(f'{self.count} views are to fail, but the sample has {len(chosen)}')
        else:
            chosen[rng.choice(len(chosen), self.count, replace=False)] = True
        return chosen
