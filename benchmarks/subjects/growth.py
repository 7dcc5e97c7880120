"""How the cost of attention grows with queries, tokens and batch."""
from dataclasses import replace

from benchmarks.harness import Comparison
from benchmarks.settings import SCALES
from projects.mmdet3d_plugin.visualization import draw_growth

from . import attention

_TITLE = 'forward + backward'
_VALUES = dict(queries=(300, 900, 1500), tokens=tuple(SCALES), batch=(1, 2))


def build(settings):
    """Attention at settings that differ from the given ones in one quantity at a time."""
    return Growth(settings)


class Growth:
    """Several comparisons of attentions, of which only the medians are kept.

    Attributes:
        candidates (tuple[str]): names from the subject attention; the first one is the base of the ratios.
    """

    candidates = ('plain', 'global fused', 'local fused', 'half on stand-ins')

    def __init__(self, settings):
        self._settings = settings

    def measure(self, rounds, only=None, clock=None):
        """Time forward + backward; arguments as of :meth:`Comparison.measure`.

        Returns:
            dict[str, list]: quantity -> list of ``(value, {candidate: median seconds})``.
        """
        result = {}
        for quantity, values in _VALUES.items():
            for value in values:
                whole = attention.build(replace(self._settings, **{quantity: value}))
                part = Comparison({name: whole.candidates[name] for name in self.candidates},
                                  {_TITLE: whole.passes[_TITLE]})
                rows = part.measure(rounds, only, clock)[_TITLE]
                result.setdefault(quantity, []).append((value, {name: row['median_s'] for name, row in rows.items()}))
        return result

    @staticmethod
    def table(results):
        """str: results of :meth:`measure`, a line for each value of a quantity."""
        names = next(iter(results.values()))[0][1]
        lines = ['', f'{_TITLE:<20}' + ''.join(f'{name:>26}' for name in names)]
        for quantity, points in results.items():
            for value, seconds in points:
                base = next(iter(seconds.values()))
                cells = [f'{own:.3f} s ({own / base:.2f}x)' for own in seconds.values()]
                lines.append(f'{quantity} = {value:<12}' + ''.join(f'{cell:>26}' for cell in cells))
        return '\n'.join(lines)

    @staticmethod
    def draw(path, results):
        """Write results of :meth:`measure` as a picture."""
        draw_growth(path, results)
