# Detector and conferring router learn together while sensors lie and fall silent.
_base_ = ['./cmt_synthetic_lies.py', './_base_/conferring_head.py']
model = dict(pts_bbox_head={{_base_.conferring_head}})
# The router starts from nothing.
optimizer = dict(paramwise_cfg=dict(custom_keys={'pts_bbox_head.aqr_router': dict(lr_mult=5.0)}))
