from mmdet3d.datasets import builder, dataset_wrappers
from mmdet3d.utils import get_root_logger


@builder.DATASETS.register_module(force=True)
class CBGSDataset(dataset_wrappers.CBGSDataset):
    """mmdet3d's class-balanced sampling, also for classes that never occur, where mmdet3d divides by zero.

    The others are balanced as if these were not among the classes, and the log names them.

    Raises:
        ValueError: if no sample has an object of any class.
    """

    def _get_sample_indices(self):
        every = self.cat2id
        occurring = {label for index in range(len(self.dataset)) for label in self.dataset.get_cat_ids(index)}
        self.cat2id = {name: label for name, label in every.items() if label in occurring}
        if not self.cat2id:
            raise ValueError(f'{self.dataset.ann_file}: no sample has an object of {list(self.CLASSES)}')
        absent = sorted(set(every) - set(self.cat2id))
        if absent:
            get_root_logger().warning(f'{self.dataset.ann_file} has no object of {absent}: the other classes are '
                                      'balanced among themselves')
        classes, self.CLASSES = self.CLASSES, tuple(self.cat2id)  # mmdet3d shares samples out among these
        try:
            return super()._get_sample_indices()
        finally:
            self.cat2id, self.CLASSES = every, classes


# mmdet3d's build_dataset looks here, not into the registry.
dataset_wrappers.CBGSDataset = CBGSDataset
