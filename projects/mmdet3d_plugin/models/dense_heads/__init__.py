from .cmt_head import CmtHead
from .separate_task_head import SeparateTaskHead

__all__ = ['CmtHead', 'SeparateTaskHead']
