# The frame of cmt_aqr_real_frame.py while its sensors fail: a router to look at with tools/visualize_bias.py.
_base_ = './cmt_aqr_real_frame.py'

simulate_failures = dict(
    type='SimulateFailure',
    cases={
        'clean': 0.25,
        'lidar_drop': 0.15,
        'camera_drop': 0.15,
        'view_drop:3': 0.2,
        'fov:60': 0.25
    })
train_pipeline = [
    {{_base_.load_points}}, {{_base_.load_sweeps}}, {{_base_.load_images}}, {{_base_.load_annotations}},
    simulate_failures, {{_base_.filter_points}}, {{_base_.filter_objects_by_range}}, {{_base_.filter_objects_by_name}},
    dict(type='ResizeCropFlipImage', data_aug_conf={{_base_.ida_aug_conf}}, training=True), {{_base_.normalize_images}},
    {{_base_.pad_images}}, {{_base_.format_train}}, {{_base_.collect_train_failures}}
]
# Repeated by the dataset itself, so that the copies of an epoch meet different failures.
data = dict(
    train=dict(
        _delete_=True, type='FrameFolderDataset', repeat=100, data_root={{_base_.data_root}},
        classes={{_base_.class_names}}, pipeline=train_pipeline))
model = dict(pts_bbox_head=dict(aqr_loss_weight=1.0))
