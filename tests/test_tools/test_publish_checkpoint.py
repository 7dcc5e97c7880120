import os

import pytest

from projects.mmdet3d_plugin.apis import read_checkpoint
from projects.mmdet3d_plugin.utils.content_hash import file_sha256


def test_a_published_checkpoint_tests_as_its_source(run_tool, trained, tmp_path):
    source = trained / 'work_dirs/tiny/latest.pth'
    text = run_tool('publish_checkpoint.py', source, 'small.pth', '--note', 'command=tools/train.py a.py --seed 0',
                    'hours=3', cwd=tmp_path)
    path, = tmp_path.iterdir()
    assert path.name == f'small-{file_sha256(path)[:8]}.pth'
    meta = read_checkpoint(path)['meta']
    assert meta['command'] == 'tools/train.py a.py --seed 0' and meta['hours'] == '3' and meta['epoch'] == 2
    assert f'source_sha256: {meta["source_sha256"]}' in text and f'{path.name}: 0.0' in text and 'MiB' in text
    assert os.path.getsize(path) < os.path.getsize(source)

    def score(checkpoint):
        text = run_tool('test.py', 'tiny.py', checkpoint, '--eval', 'bbox', cwd=trained)
        return float(text.rpartition('mean_score: ')[2])

    assert score(path) == pytest.approx(score(source), abs=1e-3)


def test_mistakes(run_tool, trained, tmp_path):
    source = trained / 'work_dirs/tiny/latest.pth'
    assert 'no such file: no.pth' in run_tool('publish_checkpoint.py', 'no.pth', 'a.pth', cwd=tmp_path, code=2)
    text = run_tool('publish_checkpoint.py', source, 'a.pth', '--note', 'hours', cwd=tmp_path, code=2)
    assert "expected KEY=VALUE, got 'hours'" in text and not os.listdir(tmp_path)
