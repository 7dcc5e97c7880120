# Synthetic nuScenes (tools/make_synthetic_nuscenes.py): objects within 28.8 m, images of 400x225 at 224x96.
_base_ = './transforms.py'

dataset_type = 'CustomNuScenesDataset'
data_root = 'data/nuscenes_synthetic/'
point_cloud_range = [-28.8, -28.8, -3.0, 28.8, 28.8, 3.0]  # lowest and highest point of an object: -2.2 and 2.5 m
input_modality = dict(use_lidar=True, use_camera=True, use_radar=False, use_map=False, use_external=False)
ida_aug_conf = dict(
    resize_lim=(0.56, 0.6),
    final_dim=(96, 224),
    bot_pct_lim=(0.0, 0.0),
    rot_lim=(0.0, 0.0),
    H=225,
    W=400,
    rand_flip=False)
# Cameras alone learn slowest here.
mask_modality = dict(type='ModalMask3D', mode='train', shares=(0.1, 0.4))
load_sweeps = dict(type='LoadPointsFromMultiSweeps', sweeps_num=2, use_dim=[0, 1, 2, 3, 4])
rotate_scale_translate = dict(
    type='GlobalRotScaleTransAll',
    rot_range=[-0.3925, 0.3925],
    scale_ratio_range=[0.95, 1.05],
    translation_std=[0.2, 0.2, 0.1])
filter_points = dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range)
filter_objects_by_range = dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range)
train_pipeline = [
    {{_base_.load_points}}, load_sweeps, {{_base_.load_images}}, {{_base_.load_annotations}},
    mask_modality, rotate_scale_translate, {{_base_.flip}}, filter_points, filter_objects_by_range,
    {{_base_.filter_objects_by_name}}, {{_base_.shuffle_points}},
    dict(type='ResizeCropFlipImage', data_aug_conf=ida_aug_conf, training=True), {{_base_.normalize_images}},
    {{_base_.pad_images}}, {{_base_.format_train}}, {{_base_.collect_train}}
]
test_pipeline = [
    {{_base_.load_points}}, load_sweeps, {{_base_.load_images}},
    dict(
        type='MultiScaleFlipAug3D',
        img_scale=(1333, 800),
        pts_scale_ratio=1,
        flip=False,
        transforms=[
            filter_points, dict(type='ResizeCropFlipImage', data_aug_conf=ida_aug_conf, training=False),
            {{_base_.normalize_images}}, {{_base_.pad_images}}, {{_base_.format_test}}, {{_base_.collect_test}}
        ])
]


def split(name, pipeline, test_mode):
    return dict(
        type=dataset_type,
        data_root=data_root,
        ann_file=data_root + f'nuscenes_infos_{name}.pkl',
        pipeline=pipeline,
        classes={{_base_.class_names}},
        modality=input_modality,
        test_mode=test_mode,
        box_type_3d='LiDAR')


data = dict(
    samples_per_gpu=4,
    workers_per_gpu=1,
    train=split('train', train_pipeline, test_mode=False),
    val=split('val', test_pipeline, test_mode=True),
    test=split('val', test_pipeline, test_mode=True))
