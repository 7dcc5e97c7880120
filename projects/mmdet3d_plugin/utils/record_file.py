"""Records of plain values in JSON files."""
import json
import math
from pathlib import Path

from .atomic_file import atomic_path


def write_record(path, record):
    """Write nested dicts of plain values as JSON, NaN as null; the file appears whole or not at all."""

    def strict(value):
        if isinstance(value, dict):
            return {key: strict(child) for key, child in value.items()}
        if isinstance(value, (list, tuple)):
            return [strict(child) for child in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(strict(record), indent=1, allow_nan=False))


def read_record(path):
    """Read what `write_record` wrote; null becomes NaN again.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is cut short or was edited into something else.
    """
    try:
        return json.loads(Path(path).read_text(encoding='utf-8'),
                          object_hook=lambda record: {key: math.nan if value is None else value
                                                      for key, value in record.items()})
    except ValueError as error:
        raise ValueError(f'{path} is damaged ({error}); remove it to have it made again') from error
