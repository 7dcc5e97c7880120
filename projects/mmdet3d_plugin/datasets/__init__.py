from . import pipelines  # noqa: F401  (registration)
from .class_balanced_dataset import CBGSDataset
from .custom_nuscenes_dataset import CustomNuScenesDataset
from .frame_folder_dataset import FrameFolderDataset
from .unified_database_sampler import UnifiedDataBaseSampler

__all__ = ['CBGSDataset', 'CustomNuScenesDataset', 'FrameFolderDataset', 'UnifiedDataBaseSampler']
