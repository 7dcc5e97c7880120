"""Rows of equal keys as markdown and CSV."""
import csv
import math

from projects.mmdet3d_plugin.utils.tables import markdown_table, write_csv


def test_tables(tmp_path):
    rows = [dict(mode='local', strength=3, mAP=0.12345, NDS=math.nan),
            dict(mode='global', strength=10, mAP=1.0, NDS=None)]
    assert markdown_table(rows).splitlines() == [
        '| mode   | strength |   mAP | NDS |',
        '|--------|---------:|------:|----:|',
        '| local  |        3 | 0.123 |   - |',
        '| global |       10 | 1.000 |   - |']
    write_csv(tmp_path / 'new' / 'rows.csv', rows)
    written = list(csv.DictReader((tmp_path / 'new' / 'rows.csv').open()))
    assert [row['mAP'] for row in written] == ['0.12345', '1.0'] and list(written[0]) == list(rows[0])
