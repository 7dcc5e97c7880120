from .global_augmentation import CustomRandomFlip3D, GlobalRotScaleTransAll
from .modal_mask import ModalMask3D
from .multi_view_image import NormalizeMultiviewImage, PadMultiViewImage, ResizeCropFlipImage
from .object_range_filter import ObjectRangeFilter
from .unified_object_sample import UnifiedObjectSample

__all__ = [
    'CustomRandomFlip3D', 'GlobalRotScaleTransAll', 'ModalMask3D', 'NormalizeMultiviewImage', 'ObjectRangeFilter',
    'PadMultiViewImage', 'ResizeCropFlipImage', 'UnifiedObjectSample'
]
