"""Names for contents: they change when the contents do."""
import hashlib
import json


def file_sha256(path):
    """SHA-256 of a file's bytes, as hex digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def content_key(*contents):
    """16 hex digits that change with any of the plain values given (config sections, strings, numbers)."""
    text = json.dumps(contents, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
