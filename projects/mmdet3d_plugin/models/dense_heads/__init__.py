from .auxiliary_head import BEVAuxiliaryHead, CameraAuxiliaryHead
from .cmt_head import CmtHead
from .separate_task_head import SeparateTaskHead

__all__ = ['BEVAuxiliaryHead', 'CameraAuxiliaryHead', 'CmtHead', 'SeparateTaskHead']
