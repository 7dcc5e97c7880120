"""Datasets that repeat, balance or join others, looked through."""


def all_datasets(dataset):
    """Yield the datasets that a dataset wraps (``dataset``) or joins (``datasets``), at any depth, then itself."""
    for inner in getattr(dataset, 'datasets', [getattr(dataset, 'dataset', None)]):
        if inner is not None:
            yield from all_datasets(inner)
    yield dataset


def all_transforms(dataset):
    """Yield the transforms of the pipelines of all of these."""
    for each in all_datasets(dataset):
        yield from getattr(getattr(each, 'pipeline', None), 'transforms', [])
