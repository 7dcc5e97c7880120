"""Rows of equal keys as tables: markdown and CSV."""
import csv
import math

from .atomic_file import atomic_path


def markdown_table(rows):
    """Rows of equal keys as a markdown table that also reads well as plain text; floats get three decimals.

    Args:
        rows (list[dict]): at least one; None and NaN are shown as '-'.
    """
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ['| ' + ' | '.join(f'{cell:<{widths[i]}}' if i == 0 else f'{cell:>{widths[i]}}'
                               for i, cell in enumerate(line)) + ' |' for line in cells]
    rule = '|' + '|'.join('-' * (width + 1) + ('-' if i == 0 else ':') for i, width in enumerate(widths)) + '|'
    return '\n'.join([lines[0], rule, *lines[1:]])


def _cell(value):
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return '-'
    return f'{value:.3f}' if isinstance(value, float) else str(value)


def write_csv(path, rows):
    """Write rows of equal keys; the file appears whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, 'w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
