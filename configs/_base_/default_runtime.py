plugin = True
plugin_dir = 'projects/mmdet3d_plugin/'

checkpoint_config = dict(interval=1)
log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook'), dict(type='TensorboardLoggerHook')])
# A batch whose loss is not finite is reported and skipped; in mixed precision overflows are normal.
custom_hooks = [dict(type='NonFiniteLossHook', action='skip'), dict(type='AQRMonitorHook')]
log_level = 'INFO'
dist_params = dict(backend='nccl')
workflow = [('train', 1)]
work_dir = None
load_from = None
resume_from = None
