# nuScenes with ten sweeps and six cameras at 800x320, class-balanced sampling and pasted ground-truth objects.
_base_ = './transforms.py'

dataset_type = 'CustomNuScenesDataset'
data_root = 'data/nuscenes/'
input_modality = dict(use_lidar=True, use_camera=True, use_radar=False, use_map=False, use_external=False)
ida_aug_conf = dict(
    resize_lim=(0.47, 0.625),
    final_dim=(320, 800),
    bot_pct_lim=(0.0, 0.0),
    rot_lim=(0.0, 0.0),
    H=900,
    W=1600,
    rand_flip=True)

# The published results train 15 epochs with this transform and the last 5 without it: resume from epoch 15 with
#   --cfg-options data.train.dataset.pipeline.4.db_sampler.rate=0
paste_objects = dict(
    type='UnifiedObjectSample',
    sample_2d=True,
    mixup_rate=0.5,
    db_sampler=dict(
        type='UnifiedDataBaseSampler',
        data_root=None,
        info_path=data_root + 'nuscenes_dbinfos_train.pkl',
        rate=1.0,
        prepare=dict(
            filter_by_difficulty=[-1],
            filter_by_min_points=dict(
                car=5,
                truck=5,
                construction_vehicle=5,
                bus=5,
                trailer=5,
                barrier=5,
                motorcycle=5,
                bicycle=5,
                pedestrian=5,
                traffic_cone=5)),
        classes={{_base_.class_names}},
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
        points_loader={{_base_.load_points}}))
train_pipeline = [
    {{_base_.load_points}}, {{_base_.load_sweeps}}, {{_base_.load_images}}, {{_base_.load_annotations}},
    paste_objects, {{_base_.mask_modality}}, {{_base_.rotate_scale_translate}}, {{_base_.flip}},
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


def split(name, pipeline, test_mode):
    return dict(
        type=dataset_type,
        data_root=data_root,
        ann_file=data_root + f'/nuscenes_infos_{name}.pkl',
        load_interval=1,
        pipeline=pipeline,
        classes={{_base_.class_names}},
        modality=input_modality,
        test_mode=test_mode,
        box_type_3d='LiDAR')


data = dict(
    samples_per_gpu=4,
    workers_per_gpu=6,
    train=dict(type='CBGSDataset', dataset=split('train', train_pipeline, test_mode=False)),
    val=split('val', test_pipeline, test_mode=True),
    test=split('val', test_pipeline, test_mode=True))
