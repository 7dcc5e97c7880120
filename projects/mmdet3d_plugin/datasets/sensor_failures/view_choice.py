"""Which views of a sample a failure strikes."""
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np


@dataclass(frozen=True)
class ViewChoice:
    """So many random views, those of the cameras named, or all.

    Attributes:
        count: number of random views, None for other choices.
        cameras: names of cameras; empty with ``count=None``: all views.

    Raises:
        ValueError: if both are given, for a count below 1, or names that are empty or repeated; in ``choose``, if the
            sample has fewer or other cameras.
    """

    count: Optional[int] = None
    cameras: Tuple[str, ...] = ()

    def __post_init__(self):
        if (self.count is not None and (self.count < 1 or self.cameras)) or not all(self.cameras) \
                or len(set(self.cameras)) < len(self.cameras):
            raise ValueError('views must be a count >= 1, different names of cameras, or all, got '
                             f'count={self.count} and cameras={self.cameras}')

    @classmethod
    def parse(cls, text='all'):
        """A number, names with commas between them, or 'all'."""
        if text == 'all':
            return cls()
        return cls(count=int(text)) if text.isdigit() else cls(cameras=tuple(text.split(',')))

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
        elif self.count is None:
            chosen[:] = True
        elif self.count > len(chosen):
            raise ValueError(f'{self.count} views are to fail, but the sample has {len(chosen)}')
        else:
            chosen[rng.choice(len(chosen), self.count, replace=False)] = True
        return chosen
