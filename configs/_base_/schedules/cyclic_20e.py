# One-cycle AdamW for 20 epochs with mixed precision; learning rate for 8 GPUs x 4 samples.
optimizer = dict(
    type='AdamW',
    lr=0.00014,
    weight_decay=0.01,
    paramwise_cfg=dict(custom_keys={
        'img_backbone': dict(lr_mult=0.01, decay_mult=5),
        'img_neck': dict(lr_mult=0.1),
    }))
optimizer_config = dict(
    type='CustomFp16OptimizerHook',
    loss_scale='dynamic',
    grad_clip=dict(max_norm=35, norm_type=2),
    custom_fp16=dict(pts_voxel_encoder=False, pts_middle_encoder=False, pts_bbox_head=False))
lr_config = dict(policy='cyclic', target_ratio=(6, 0.0001), cyclic_times=1, step_ratio_up=0.4)
momentum_config = dict(policy='cyclic', target_ratio=(0.8947368421052632, 1), cyclic_times=1, step_ratio_up=0.4)
total_epochs = 20
evaluation = dict(interval=20)
