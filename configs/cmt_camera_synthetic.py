# Cameras alone on the large synthetic set, by the head that CMT's published camera config names: one epoch from the
# weights of the fusion baseline.
_base_ = './cmt_synthetic_trainval.py'
model = dict(
    pts_voxel_layer=None,
    pts_voxel_encoder=None,
    pts_middle_encoder=None,
    pts_backbone=None,
    pts_neck=None,
    auxiliary_heads=None,
    pts_bbox_head=dict(type='CmtImageHead', transformer=dict(type='CmtImageTransformer')))
input_modality = dict(use_lidar=False)
train_pipeline = [
    {{_base_.load_images}}, {{_base_.load_annotations}},
    dict(type='GlobalRotScaleTransImage', flip_dx_ratio=0.5, flip_dy_ratio=0.5), {{_base_.filter_objects_by_range}},
    {{_base_.filter_objects_by_name}},
    dict(type='ResizeCropFlipImage', data_aug_conf={{_base_.ida_aug_conf}}, training=True), {{_base_.normalize_images}},
    {{_base_.pad_images}}, {{_base_.format_train}},
    dict(type='Collect3D', keys=['img', 'gt_bboxes_3d', 'gt_labels_3d'], meta_keys={{_base_.collect_train.meta_keys}})
]
test_pipeline = [
    {{_base_.load_images}},
    dict(
        type='MultiScaleFlipAug3D',
        img_scale=(1333, 800),
        pts_scale_ratio=1,
        flip=False,
        transforms=[
            dict(type='ResizeCropFlipImage', data_aug_conf={{_base_.ida_aug_conf}}, training=False),
            {{_base_.normalize_images}}, {{_base_.pad_images}}, {{_base_.format_test}},
            dict(type='Collect3D', keys=['img'])
        ])
]
data = dict(
    train=dict(pipeline=train_pipeline, modality=input_modality),
    val=dict(pipeline=test_pipeline, modality=input_modality),
    test=dict(pipeline=test_pipeline, modality=input_modality))
optimizer = dict(lr=2e-4)
total_epochs = 1
evaluation = dict(interval=1)
load_from = 'checkpoints/cmt_synthetic.pth'
