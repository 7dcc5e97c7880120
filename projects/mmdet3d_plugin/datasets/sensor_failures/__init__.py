"""Simulated sensor failures and the cases by which configs and tools ask for them (docs/design.md, "Sensor failures").

To add one, write a class into the file of its sensor and register it there.
"""
from . import cameras, lidar, stale  # noqa: F401  (registration; the order is that of messages)
from .failure_case import CLEAN, FailureCase, case_help, failure_rng
from .registry import FAILURES, register_failure

__all__ = ['CLEAN', 'FAILURES', 'FailureCase', 'case_help', 'failure_rng', 'register_failure']
