"""Weights & Biases by mmcv's hook, without a network."""
import json
import re
import struct

import pytest

from tests.tiny_detector import write_config


def test_the_line_of_the_docs_in_an_offline_run(run_tool, repo_root, tmp_path, monkeypatch):
    """The run holds the numbers of the JSON log, in a folder that git ignores.

    Of every second iteration: mmcv gives an evaluation the step of the iteration after it, which wandb leaves out then.
    """
    pytest.importorskip('wandb', reason='wandb is not installed: pip install wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    option, = re.findall(r'^WANDB_MODE=offline tools/train.py CONFIG --cfg-options (\S+)$',
                         (repo_root / 'docs/monitoring.md').read_text(), re.MULTILINE)
    run_tool('train.py', write_config(tmp_path).name, '--cfg-options', option, 'log_config.interval=2', cwd=tmp_path,
             fresh=True)
    log, = (tmp_path / 'work_dirs/tiny').glob('*.log.json')
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [row['loss'] for row in logged if row.get('mode') == 'train']
    folder, = (tmp_path / 'wandb').glob('offline-run-*')
    assert losses and _history(folder, 'train/loss') == pytest.approx(losses, abs=1e-4)  # the log rounds
    assert '/wandb' in (repo_root / '.gitignore').read_text().splitlines()


def _history(folder, name):
    """Values of a number in the steps of a stored run: records of protobuf in one block of a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record
    file, = folder.glob('*.wandb')
    content, values = file.read_bytes()[7:], []  # without wandb's header
    assert len(content) < 2 ** 15 - 7  # the size of a block
    while content:
        length, kind = struct.unpack_from('<4xHB', content)  # behind a checksum
        assert kind == 1  # whole
        record = Record.FromString(content[7:7 + length])
        values += [json.loads(item.value_json) for item in record.history.item
                   if name in (item.key, '/'.join(item.nested_key))]
        content = content[7 + length:]
    return values
