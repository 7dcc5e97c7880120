# The synthetic set with sensor failures simulated in training, in place of ModalMask3D.
_base_ = './nuscenes_synthetic.py'

simulate_failures = dict(
    type='SimulateFailure',
    cases={
        'clean': 0.3,
        'lidar_drop': 0.15,
        'camera_drop': 0.15,
        'view_drop:3': 0.15,
        'fov:60': 0.15,
        'object_failure:0.5': 0.1
    })
data_root = 'data/nuscenes_synthetic_trainval/'
train_infos = data_root + 'nuscenes_infos_train.pkl'
val_infos = data_root + 'nuscenes_infos_val.pkl'
train_pipeline = [
    {{_base_.load_points}}, {{_base_.load_sweeps}}, {{_base_.load_images}}, {{_base_.load_annotations}},
    simulate_failures, {{_base_.rotate_scale_translate}}, {{_base_.flip}}, {{_base_.filter_points}},
    {{_base_.filter_objects_by_range}}, {{_base_.filter_objects_by_name}}, {{_base_.shuffle_points}},
    dict(type='ResizeCropFlipImage', data_aug_conf={{_base_.ida_aug_conf}}, training=True), {{_base_.normalize_images}},
    {{_base_.pad_images}}, {{_base_.format_train}}, {{_base_.collect_train_failures}}
]
data = dict(
    train=dict(data_root=data_root, ann_file=train_infos, pipeline=train_pipeline),
    val=dict(data_root=data_root, ann_file=val_infos),
    test=dict(data_root=data_root, ann_file=val_infos))
