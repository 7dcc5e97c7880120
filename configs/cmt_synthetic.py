# The baseline on the synthetic set, from scratch.
_base_ = [
    './_base_/models/cmt_synthetic.py', './_base_/datasets/nuscenes_synthetic.py', './_base_/schedules/cyclic_20e.py',
    './_base_/default_runtime.py'
]
optimizer = dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=0.01)
optimizer_config = dict(_delete_=True, grad_clip=dict(max_norm=35, norm_type=2))
lr_config = dict(step_ratio_up=0.1)
momentum_config = dict(step_ratio_up=0.1)
