# The quickstart: a conferring router from few samples of the small set, on a detector that never saw them. So that few
# are enough, only gross failures strike, and it learns what their records say.
_base_ = './cmt_aqr_plug_in_synthetic.py'
data_root = 'data/nuscenes_synthetic/'
train_infos = data_root + 'nuscenes_infos_train.pkl'
val_infos = data_root + 'nuscenes_infos_val.pkl'
train_pipeline = [
    {{_base_.load_points}}, {{_base_.load_sweeps}}, {{_base_.load_images}}, {{_base_.load_annotations}},
    dict(
        type='SimulateFailure',
        cases={
            'clean': 0.25,
            'stale_lidar@3': 0.14,
            'lidar_turn:10': 0.14,
            'stale_views:3@3': 0.2,
            'glare@3': 0.07,
            'glare:3@3': 0.07,
            'lidar_drop': 0.05,
            'camera_drop': 0.08
        }), {{_base_.rotate_scale_translate}}, {{_base_.flip}}, {{_base_.filter_points}},
    {{_base_.filter_objects_by_range}}, {{_base_.filter_objects_by_name}}, {{_base_.shuffle_points}},
    dict(type='ResizeCropFlipImage', data_aug_conf={{_base_.ida_aug_conf}}, training=True), {{_base_.normalize_images}},
    {{_base_.pad_images}}, {{_base_.format_train}}, {{_base_.collect_train_failures}}
]
data = dict(
    train=dict(data_root=data_root, ann_file=train_infos, pipeline=train_pipeline),
    val=dict(data_root=data_root, ann_file=val_infos),
    test=dict(data_root=data_root, ann_file=val_infos))
router_training = dict(samples=640, iters=600, least_benefit=None, caution=0.0)
log_config = dict(interval=20)
