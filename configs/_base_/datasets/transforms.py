# What all datasets share: classes, range, and the transforms of their pipelines, each under a name, from which the
# dataset files compose pipelines as {{_base_.name}}. Whatever depends on the image size stands in those files.
class_names = [
    'car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle', 'bicycle', 'pedestrian',
    'traffic_cone'
]
point_cloud_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
img_norm_cfg = dict(mean=[103.530, 116.280, 123.675], std=[57.375, 57.120, 58.395], to_rgb=False)

load_points = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=[0, 1, 2, 3, 4])
load_sweeps = dict(type='LoadPointsFromMultiSweeps', sweeps_num=10, use_dim=[0, 1, 2, 3, 4])
load_images = dict(type='LoadMultiViewImageFromFiles')
load_annotations = dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True)

mask_modality = dict(type='ModalMask3D', mode='train')
rotate_scale_translate = dict(
    type='GlobalRotScaleTransAll',
    rot_range=[-0.785, 0.785],
    scale_ratio_range=[0.9, 1.1],
    translation_std=[0.5, 0.5, 0.5])
flip = dict(
    type='CustomRandomFlip3D', sync_2d=False, flip_ratio_bev_horizontal=0.5, flip_ratio_bev_vertical=0.5)
keep_rotation_scale_translation = dict(
    type='GlobalRotScaleTrans', rot_range=[0, 0], scale_ratio_range=[1.0, 1.0], translation_std=[0, 0, 0])
keep_flip = dict(type='RandomFlip3D')
shuffle_points = dict(type='PointShuffle')

filter_points = dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range)
filter_objects_by_range = dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range)
filter_objects_by_name = dict(type='ObjectNameFilter', classes=class_names)

normalize_images = dict(type='NormalizeMultiviewImage', **img_norm_cfg)
pad_images = dict(type='PadMultiViewImage', size_divisor=32)

format_train = dict(type='DefaultFormatBundle3D', class_names=class_names)
format_test = dict(type='DefaultFormatBundle3D', class_names=class_names, with_label=False)
collect_train = dict(
    type='Collect3D',
    keys=['points', 'img', 'gt_bboxes_3d', 'gt_labels_3d'],
    meta_keys=('filename', 'ori_shape', 'img_shape', 'lidar2img', 'depth2img', 'cam2img', 'pad_shape', 'scale_factor',
               'flip', 'pcd_horizontal_flip', 'pcd_vertical_flip', 'box_mode_3d', 'box_type_3d', 'img_norm_cfg',
               'pcd_trans', 'sample_idx', 'pcd_scale_factor', 'pcd_rotation', 'pts_filename',
               'transformation_3d_flow', 'rot_degree', 'gt_bboxes_3d', 'gt_labels_3d'))
collect_test = dict(type='Collect3D', keys=['points', 'img'])
# With SimulateFailure in the pipeline: what the model reads, and the record of the failure.
collect_train_failures = dict(
    type='Collect3D',
    keys=['points', 'img', 'gt_bboxes_3d', 'gt_labels_3d'],
    meta_keys=('lidar2img', 'pad_shape', 'img_shape', 'img_norm_cfg', 'box_type_3d', 'sample_idx', 'gt_bboxes_3d',
               'gt_labels_3d', 'failure'))
