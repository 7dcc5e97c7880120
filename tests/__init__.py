"""A package, so that tests.tiny_detector is importable by the tools in their own processes."""
