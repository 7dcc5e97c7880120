"""How the cost of attention grows with queries, tokens and batch."""
from dataclasses import replace

from benchmarks.harness import Comparison
from benchmarks.settings import SCALES
from projects.mmdet3d_plugin.visualization import draw_growth

from . import attention

_VALUES = dict(queries=(300, 900, 1500), tokens=tuple(SCALES), batch=(1, 2))


def build(settings):
    """Attention at settings that differ from the given ones in one quantity at a time."""
    return Growth(settings, attention.build, 'forward + backward',
                  ('plain', 'global fused', 'local fused', 'half on stand-ins'))


class Growth:
    """Several comparisons of a subject, of which only the medians are kept.

    Args:
        settings (Settings): from which one quantity at a time differs.
        build (Callable): of the subject, settings -> Comparison.
        title (str): of the pass that is timed.
        candidates (tuple[str]): of the subject; the first one is the base of the ratios.
    """

    def __init__(self, settings, build, title, candidates):
        self._settings, self._build, self.title, self.candidates = settings, build, title, candidates

    def measure(self, rounds, only=None, clock=None):
        """Time the pass; arguments as of :meth:`Comparison.measure`.

        Returns:
            dict[str, list]: quantity -> list of ``(value, {candidate: median seconds})``.
        """
        result = {}
        for quantity, values in _VALUES.items():
            for value in values:
                whole = self._build(replace(self._settings, **{quantity: value}))
                part = Comparison({name: whole.candidates[name] for name in self.candidates},
                                  {self.title: whole.passes[self.title]})
                rows = part.measure(rounds, only, clock)[self.title]
                result.setdefault(quantity, []).append((value, {name: row['median_s'] for name, row in rows.items()}))
        return result

    def table(self, results):
        """str: results of :meth:`measure`, a line for each value of a quantity."""
        names = next(iter(results.values()))[0][1]
        lines = ['', f'{self.title:<20}' + ''.join(f'{name:>32}' for name in names)]
        for quantity, points in results.items():
            for value, seconds in points:
                base = next(iter(seconds.values()))
                cells = [f'{own:.3f} s ({own / base:.2f}x)' for own in seconds.values()]
                lines.append(f'{quantity} = {value:<12}' + ''.join(f'{cell:>32}' for cell in cells))
        return '\n'.join(lines)

    def draw(self, path, results):
        """Write results of :meth:`measure` as a picture."""
        draw_growth(path, results, self.title)
