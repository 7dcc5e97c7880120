"""Names for contents: they change when the contents do."""
import ast
import hashlib
import json
from pathlib import Path


def file_sha256(path):
    """SHA-256 of a file's bytes, as hex digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def code_sha256(paths):
    """SHA-256, as hex digits, of what Python files do: layout, comments and docstrings do not count.

    Args:
        paths (Iterable[str | Path]): The files, in an order that counts.
    """
    digest = hashlib.sha256()
    for path in paths:
        tree = ast.parse(Path(path).read_text())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def content_key(*contents):
    """16 hex digits that change with any of the plain values given (config sections, strings, numbers)."""
    text = json.dumps(contents, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
