import pytest

from benchmarks import settings

TINY = """
_base_ = '{configs}/_base_/models/cmt_small.py'
model = dict(
    img_backbone=dict(base_channels=8),
    img_neck=dict(in_channels=[32, 64]),
    pts_bbox_head=dict(num_query=12, transformer=dict(decoder=dict(num_layers=2))))
"""


@pytest.fixture
def tiny_scale(repo_root, tmp_path, monkeypatch):
    """In the place of the published configs: a small one, whose images are 96 x 64 pixels."""
    config = tmp_path / 'tiny.py'
    config.write_text(TINY.format(configs=repo_root / 'configs'))
    scale = settings.Scale(str(config), (48, 48), (6, 4, 6), points=200)
    for tokens in settings.SCALES:
        monkeypatch.setitem(settings.SCALES, tokens, scale)
    return scale
