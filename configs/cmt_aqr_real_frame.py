# A small AQR model that overfits one real frame from scratch, on two CPU cores in a few minutes:
#   tools/train.py configs/cmt_aqr_real_frame.py --frame DIR
_base_ = [
    './_base_/models/cmt_small.py', './_base_/datasets/real_frame.py', './_base_/schedules/cyclic_20e.py',
    './_base_/default_runtime.py'
]
model = dict(pts_bbox_head=dict(enable_aqr=True))
optimizer = dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=0.01)
optimizer_config = dict(_delete_=True, grad_clip=dict(max_norm=35, norm_type=2))
lr_config = dict(step_ratio_up=0.15)
momentum_config = dict(step_ratio_up=0.15)
total_epochs = 4       # of 100 iterations each
evaluation = dict(interval=1)
log_config = dict(interval=10)
