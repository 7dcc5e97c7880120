from .auxiliary_head import BEVAuxiliaryHead, CameraAuxiliaryHead
from .cmt_head import CmtHead
from .separate_task_head import SeparateTaskHead
from .single_sensor_heads import CmtImageHead, CmtLidarHead

__all__ = ['BEVAuxiliaryHead', 'CameraAuxiliaryHead', 'CmtHead', 'CmtImageHead', 'CmtLidarHead', 'SeparateTaskHead']
