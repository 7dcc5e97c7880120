import pytest


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """mmcv's runner sleeps two seconds an epoch."""
    monkeypatch.setattr('mmcv.runner.epoch_based_runner.time.sleep', lambda seconds: None)
