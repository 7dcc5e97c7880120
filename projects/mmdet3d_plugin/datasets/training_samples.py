"""Training samples with ground truth, and an error where mmdet3d would look for one for ever."""
import numpy as np

_DRAWS = 20  # as mmdet3d draws them, so that trainings repeat
_MOST_TRIED = 200  # of a large data set, afterwards


def training_sample(dataset, index):
    """A sample as the training pipeline leaves it, or another one in its place where it leaves no ground truth.

    Args:
        dataset (Custom3DDataset): with a pipeline; `filter_empty_gt` says whether ground truth is needed.
        index (int): of the sample.

    Returns:
        dict: What the pipeline returns.

    Raises:
        RuntimeError: no sample has ground truth left, or none of more than 200 that were drawn.
    """
    for candidate in _candidates(dataset, index):
        sample = dataset.prepare_train_data(candidate)
        if sample is not None:
            return sample
    filters = [repr(transform) for transform in dataset.pipeline.transforms if 'Filter' in type(transform).__name__]
    number = len(dataset)
    tried = f'none of the {number} samples' if number <= _MOST_TRIED else f'none of {_MOST_TRIED} random samples'
    raise RuntimeError(f'{dataset.ann_file}: {tried} has a box of the classes {list(dataset.CLASSES)} left after the '
                       f'training pipeline. Its filters: {", ".join(filters) or "none"}. Do the range and the classes '
                       'fit the data? filter_empty_gt=False trains without boxes')


def _candidates(dataset, index):
    yield index
    for _ in range(_DRAWS):
        index = dataset._rand_another(index)
        yield index
    yield from np.random.permutation(len(dataset))[:_MOST_TRIED]
