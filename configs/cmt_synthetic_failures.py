# A trained baseline learns on while sensors fail: what AQR is compared with in tools/ablation.py.
_base_ = [
    './_base_/models/cmt_synthetic.py', './_base_/datasets/nuscenes_synthetic_failures.py',
    './_base_/schedules/cyclic_20e.py', './_base_/default_runtime.py'
]
model = dict(auxiliary_heads=None)
optimizer = dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=0.01)
optimizer_config = dict(_delete_=True, grad_clip=dict(max_norm=35, norm_type=2))
lr_config = dict(
    _delete_=True, policy='FlatCosineAnnealing', start_percent=0.5, min_lr=0, by_epoch=False, warmup='linear',
    warmup_iters=50, warmup_ratio=0.05)
momentum_config = None
total_epochs = 1
evaluation = dict(interval=1)
log_config = dict(interval=20)
custom_hooks = [dict(type='NonFiniteLossHook', action='skip'), dict(type='AQRMonitorHook', interval=20)]
load_from = 'checkpoints/cmt_synthetic.pth'
