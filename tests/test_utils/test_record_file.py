"""Records of plain values in JSON: what goes in comes out, NaN included; a file is whole or not there."""
import json
import math

import pytest

from projects.mmdet3d_plugin.utils.record_file import read_record, write_record


def test_round_trip(tmp_path):
    record = dict(scores=dict(mAP=0.5, mATE=math.nan), names=['a', 'b'], count=3, none_of_these=dict())
    path = tmp_path / 'new' / 'record.json'
    write_record(path, record)
    found = read_record(path)
    assert math.isnan(found['scores'].pop('mATE')) and record['scores'].pop('mATE')
    assert found == record
    assert json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f'{name} is no JSON'))


@pytest.mark.parametrize('damage', [b'{"scores": {"mAP": 0.', b'', b'\xff\xfe'])
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / 'record.json'
    path.write_bytes(damage)
    with pytest.raises(ValueError, match='record.json is damaged .*; remove it to have it made again'):
        read_record(path)


def test_what_is_not_plain_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_record(tmp_path / 'record.json', dict(value=object()))
    with pytest.raises(ValueError):
        write_record(tmp_path / 'record.json', dict(value=math.inf))
    assert not list(tmp_path.iterdir())
