# nuScenes as in nuscenes_800x320.py, with images of twice the size.
_base_ = './nuscenes_800x320.py'

ida_aug_conf = dict(
    resize_lim=(0.94, 1.25),
    final_dim=(640, 1600),
    bot_pct_lim=(0.0, 0.0),
    rot_lim=(0.0, 0.0),
    H=900,
    W=1600,
    rand_flip=True)
train_pipeline = [
    {{_base_.load_points}}, {{_base_.load_sweeps}}, {{_base_.load_images}}, {{_base_.load_annotations}},
    {{_base_.paste_objects}}, {{_base_.mask_modality}}, {{_base_.rotate_scale_translate}}, {{_base_.flip}},
    {{_base_.filter_points}}, {{_base_.filter_objects_by_range}}, {{_base_.filter_objects_by_name}},
    {{_base_.shuffle_points}}, dict(type='ResizeCropFlipImage', data_aug_conf=ida_aug_conf, training=True),
    {{_base_.normalize_images}}, {{_base_.pad_images}}, {{_base_.format_train}}, {{_base_.collect_train}}
]
test_pipeline = [
    {{_base_.load_points}}, {{_base_.load_sweeps}}, {{_base_.load_images}},
    dict(
        type='MultiScaleFlipAug3D',
        img_scale=(1333, 800),
        pts_scale_ratio=1,
        flip=False,
        transforms=[
            {{_base_.keep_rotation_scale_translation}}, {{_base_.keep_flip}},
            dict(type='ResizeCropFlipImage', data_aug_conf=ida_aug_conf, training=False),
            {{_base_.normalize_images}}, {{_base_.pad_images}}, {{_base_.format_test}}, {{_base_.collect_test}}
        ])
]
data = dict(
    samples_per_gpu=2,
    train=dict(dataset=dict(pipeline=train_pipeline)),
    val=dict(pipeline=test_pipeline),
    test=dict(pipeline=test_pipeline))
