# The baseline on the synthetic set of the quickstart, from scratch.
_base_ = [
    './_base_/models/cmt_synthetic.py', './_base_/datasets/nuscenes_synthetic.py', './_base_/schedules/cyclic_20e.py',
    './_base_/default_runtime.py'
]
optimizer = dict(_delete_=True, type='AdamW', lr=8e-4, weight_decay=0.01)
optimizer_config = dict(_delete_=True, grad_clip=dict(max_norm=35, norm_type=2))
lr_config = dict(
    _delete_=True, policy='FlatCosineAnnealing', start_percent=0.6, min_lr=0, by_epoch=False, warmup='linear',
    warmup_iters=200, warmup_ratio=0.05)
momentum_config = None
total_epochs = 10
evaluation = dict(interval=2)
log_config = dict(interval=50)
checkpoint_config = dict(max_keep_ckpts=2)
