"""Nested containers of plain Python values."""
import numpy as np


def plain_values(value):
    """Copy nested containers; numpy values and config sections become plain ones, which `read_checkpoint` accepts."""
    if isinstance(value, dict):
        return {key: plain_values(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(plain_values(child) for child in value)
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
