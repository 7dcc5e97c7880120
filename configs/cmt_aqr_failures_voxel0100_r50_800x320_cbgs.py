# Three epochs on a trained CMT checkpoint with AQR while sensors fail; the router is told where. All weights learn, the
# router ten times as fast. Scores as in tools/test_robustness.py.
_base_ = './cmt_aqr_voxel0100_r50_800x320_cbgs.py'

simulate_failures = dict(
    type='SimulateFailure',
    cases={
        'clean': 0.3,
        'lidar_drop': 0.1,
        'camera_drop': 0.1,
        'view_drop:3': 0.15,
        'fov:60': 0.1,
        'fov:90': 0.05,
        'object_failure:0.5': 0.1,
        'beams:4': 0.1
    })
load_sweeps = dict(type='LoadPointsFromMultiSweepsWithRings', sweeps_num=10, use_dim=[0, 1, 2, 3, 4])
train_pipeline = [
    {{_base_.load_points}}, load_sweeps, {{_base_.load_images}}, {{_base_.load_annotations}}, {{_base_.paste_objects}},
    simulate_failures, {{_base_.rotate_scale_translate}}, {{_base_.flip}}, {{_base_.filter_points}},
    {{_base_.filter_objects_by_range}}, {{_base_.filter_objects_by_name}}, {{_base_.shuffle_points}},
    dict(type='ResizeCropFlipImage', data_aug_conf={{_base_.ida_aug_conf}}, training=True), {{_base_.normalize_images}},
    {{_base_.pad_images}}, {{_base_.format_train}}, {{_base_.collect_train_failures}}
]
data = dict(train=dict(dataset=dict(pipeline=train_pipeline)))
model = dict(pts_bbox_head=dict(aqr_loss_weight=1.0))
optimizer = dict(lr=2e-5, paramwise_cfg=dict(custom_keys={'pts_bbox_head.aqr_router': dict(lr_mult=10.0)}))
custom_hooks = [
    dict(type='NonFiniteLossHook', action='skip'),
    dict(type='AQRMonitorHook'),
    dict(type='BiasStrengthWarmupHook', iters=500)
]
total_epochs = 3
evaluation = dict(interval=3)
load_from = 'ckpts/cmt_voxel0100_r50_800x320_cbgs.pth'
