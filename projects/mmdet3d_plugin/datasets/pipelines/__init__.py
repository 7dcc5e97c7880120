from .global_augmentation import CustomRandomFlip3D, GlobalRotScaleTransAll, GlobalRotScaleTransImage
from .image_files import LoadMultiViewImageFromFiles
from .input_digest import DigestInputs
from .load_sweeps_with_rings import LoadPointsFromMultiSweepsWithRings
from .modal_mask import ModalMask3D
from .multi_view_image import NormalizeMultiviewImage, PadMultiViewImage, ResizeCropFlipImage
from .object_range_filter import ObjectRangeFilter
from .point_files import LoadPointsFromFile, LoadPointsFromMultiSweeps
from .simulate_failure import SimulateFailure
from .unified_object_sample import UnifiedObjectSample

__all__ = [
    'CustomRandomFlip3D', 'DigestInputs', 'GlobalRotScaleTransAll', 'GlobalRotScaleTransImage',
    'LoadMultiViewImageFromFiles', 'LoadPointsFromFile', 'LoadPointsFromMultiSweeps',
    'LoadPointsFromMultiSweepsWithRings', 'ModalMask3D', 'NormalizeMultiviewImage', 'ObjectRangeFilter',
    'PadMultiViewImage', 'ResizeCropFlipImage', 'SimulateFailure', 'UnifiedObjectSample'
]
