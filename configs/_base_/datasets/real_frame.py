# One frame given as files (see FrameFolderDataset), seen over and over without augmentation, at 416x160. The tools take
# its folder as --frame DIR; docs/data.md says where frames come from.
_base_ = './transforms.py'

dataset_type = 'FrameFolderDataset'
data_root = ''
ida_aug_conf = dict(
    resize_lim=(0.26, 0.26),
    final_dim=(160, 416),
    bot_pct_lim=(0.0, 0.0),
    rot_lim=(0.0, 0.0),
    H=900,
    W=1600,
    rand_flip=False)
train_pipeline = [
    {{_base_.load_points}}, {{_base_.load_sweeps}}, {{_base_.load_images}}, {{_base_.load_annotations}},
    {{_base_.filter_points}}, {{_base_.filter_objects_by_range}}, {{_base_.filter_objects_by_name}},
    dict(type='ResizeCropFlipImage', data_aug_conf=ida_aug_conf, training=True), {{_base_.normalize_images}},
    {{_base_.pad_images}}, {{_base_.format_train}}, {{_base_.collect_train}}
]
test_pipeline = [
    {{_base_.load_points}}, {{_base_.load_sweeps}}, {{_base_.load_images}},
    dict(
        type='MultiScaleFlipAug3D',
        img_scale=(1333, 800),
        pts_scale_ratio=1,
        flip=False,
        transforms=[
            dict(type='ResizeCropFlipImage', data_aug_conf=ida_aug_conf, training=False),
            {{_base_.normalize_images}}, {{_base_.pad_images}}, {{_base_.format_test}}, {{_base_.collect_test}}
        ])
]


def frame(pipeline, test_mode):
    return dict(
        type=dataset_type,
        data_root=data_root,
        classes={{_base_.class_names}},
        pipeline=pipeline,
        test_mode=test_mode)


data = dict(
    samples_per_gpu=1,
    workers_per_gpu=1,
    train=dict(type='RepeatDataset', times=100, dataset=frame(train_pipeline, test_mode=False)),
    val=frame(test_pipeline, test_mode=True),
    test=frame(test_pipeline, test_mode=True))
