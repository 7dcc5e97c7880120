# nuScenes with ten sweeps and six cameras at 800x320, class-balanced sampling and pasted ground-truth objects.
# Transforms have names of their own, so that another config can compose its pipelines from them.
dataset_type = 'CustomNuScenesDataset'
data_root = 'data/nuscenes/'
class_names = [
    'car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle', 'bicycle', 'pedestrian',
    'traffic_cone'
]
point_cloud_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
input_modality = dict(use_lidar=True, use_camera=True, use_radar=False, use_map=False, use_external=False)
img_norm_cfg = dict(mean=[103.530, 116.280, 123.675], std=[57.375, 57.120, 58.395], to_rgb=False)
ida_aug_conf = dict(
    resize_lim=(0.47, 0.625),
    final_dim=(320, 800),
    bot_pct_lim=(0.0, 0.0),
    rot_lim=(0.0, 0.0),
    H=900,
    W=1600,
    rand_flip=True)

load_points = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=[0, 1, 2, 3, 4])
load_sweeps = dict(type='LoadPointsFromMultiSweeps', sweeps_num=10, use_dim=[0, 1, 2, 3, 4])
load_images = dict(type='LoadMultiViewImageFromFiles')
load_annotations = dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True)
# The published results train 15 epochs with this transform and the last 5 without it.
paste_objects = dict(
    type='UnifiedObjectSample',
    sample_2d=True,
    mixup_rate=0.5,
    db_sampler=dict(
        type='UnifiedDataBaseSampler',
        data_root=None,
        info_path=data_root + 'nuscenes_dbinfos_train.pkl',
        rate=1.0,
        prepare=dict(filter_by_difficulty=[-1], filter_by_min_points={name: 5 for name in class_names}),
        classes=class_names,
        sample_groups=dict(
            car=2,
            truck=3,
            construction_vehicle=7,
            bus=4,
            trailer=6,
            barrier=2,
            motorcycle=6,
            bicycle=6,
            pedestrian=2,
            traffic_cone=2),
        points_loader=load_points))
mask_modality = dict(type='ModalMask3D', mode='train')
rotate_scale_translate = dict(
    type='GlobalRotScaleTransAll',
    rot_range=[-0.785, 0.785],
    scale_ratio_range=[0.9, 1.1],
    translation_std=[0.5, 0.5, 0.5])
flip = dict(
    type='CustomRandomFlip3D', sync_2d=False, flip_ratio_bev_horizontal=0.5, flip_ratio_bev_vertical=0.5)
filter_points = dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range)
filter_objects_by_range = dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range)
filter_objects_by_name = dict(type='ObjectNameFilter', classes=class_names)
shuffle_points = dict(type='PointShuffle')
normalize_images = dict(type='NormalizeMultiviewImage', **img_norm_cfg)
pad_images = dict(type='PadMultiViewImage', size_divisor=32)
format_train = dict(type='DefaultFormatBundle3D', class_names=class_names)
collect_train = dict(
    type='Collect3D',
    keys=['points', 'img', 'gt_bboxes_3d', 'gt_labels_3d'],
    meta_keys=('filename', 'ori_shape', 'img_shape', 'lidar2img', 'depth2img', 'cam2img', 'pad_shape', 'scale_factor',
               'flip', 'pcd_horizontal_flip', 'pcd_vertical_flip', 'box_mode_3d', 'box_type_3d', 'img_norm_cfg',
               'pcd_trans', 'sample_idx', 'pcd_scale_factor', 'pcd_rotation', 'pts_filename',
               'transformation_3d_flow', 'rot_degree', 'gt_bboxes_3d', 'gt_labels_3d'))
rotate_scale_translate_test = dict(
    type='GlobalRotScaleTrans', rot_range=[0, 0], scale_ratio_range=[1.0, 1.0], translation_std=[0, 0, 0])
flip_test = dict(type='RandomFlip3D')
format_test = dict(type='DefaultFormatBundle3D', class_names=class_names, with_label=False)
collect_test = dict(type='Collect3D', keys=['points', 'img'])

train_pipeline = [
    load_points, load_sweeps, load_images, load_annotations, paste_objects, mask_modality, rotate_scale_translate,
    flip, filter_points, filter_objects_by_range, filter_objects_by_name, shuffle_points,
    dict(type='ResizeCropFlipImage', data_aug_conf=ida_aug_conf, training=True), normalize_images, pad_images,
    format_train, collect_train
]
test_pipeline = [
    load_points, load_sweeps, load_images,
    dict(
        type='MultiScaleFlipAug3D',
        img_scale=(1333, 800),
        pts_scale_ratio=1,
        flip=False,
        transforms=[
            rotate_scale_translate_test, flip_test,
            dict(type='ResizeCropFlipImage', data_aug_conf=ida_aug_conf, training=False), normalize_images, pad_images,
            format_test, collect_test
        ])
]

common = dict(
    type=dataset_type,
    data_root=data_root,
    load_interval=1,
    classes=class_names,
    modality=input_modality,
    box_type_3d='LiDAR')
validation = dict(
    ann_file=data_root + '/nuscenes_infos_val.pkl', pipeline=test_pipeline, test_mode=True, **common)
data = dict(
    samples_per_gpu=4,
    workers_per_gpu=6,
    train=dict(
        type='CBGSDataset',
        dataset=dict(
            ann_file=data_root + '/nuscenes_infos_train.pkl', pipeline=train_pipeline, test_mode=False, **common)),
    val=validation,
    test=validation)
