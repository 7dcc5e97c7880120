from .assigners.hungarian_assigner_3d import HungarianAssigner3D
from .box_encoding import decode_boxes, encode_boxes
from .coders.multi_task_bbox_coder import MultiTaskBBoxCoder
from .match_costs.bbox3d_l1_cost import BBox3DL1Cost

__all__ = ['BBox3DL1Cost', 'HungarianAssigner3D', 'MultiTaskBBoxCoder', 'decode_boxes', 'encode_boxes']
