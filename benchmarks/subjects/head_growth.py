"""How the cost of the whole head grows with queries, tokens and batch."""
from . import head
from .growth import Growth


def build(settings):
    """Heads at settings that differ from the given ones in one quantity at a time."""
    return Growth(settings, head.build, 'forward',
                  ('no AQR', 'AQR global', 'looks, none suspected', 'looks, half lean on stand-ins'))
