"""Simulated sensor failures and the cases by which configs and tools ask for them (docs/design.md, "Sensor failures").

To add one, write a class into the file of its sensor and register it there.
"""
from . import (  # noqa: F401  (registration; the order is that of messages)
    cameras,
    image_weather,
    images,
    lidar,
    lidar_weather,
    misalignment,
    phantoms,
    points,
    stale,
)
from .failure_case import FailureCase, case_help, failure_rng
from .presets import PRESETS, expand_cases
from .registry import CLEAN, FAILURES, register_failure

__all__ = ['CLEAN', 'FAILURES', 'PRESETS', 'FailureCase', 'case_help', 'expand_cases', 'failure_rng',
           'register_failure']
