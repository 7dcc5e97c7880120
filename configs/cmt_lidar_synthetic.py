# LiDAR alone on the large synthetic set, by the head that CMT's published LiDAR config names: one epoch from the
# weights of the fusion baseline.
_base_ = './cmt_synthetic_trainval.py'
model = dict(
    img_backbone=None,
    img_neck=None,
    auxiliary_heads=None,
    pts_bbox_head=dict(type='CmtLidarHead', transformer=dict(type='CmtLidarTransformer')))
input_modality = dict(use_camera=False)
train_pipeline = [
    {{_base_.load_points}}, {{_base_.load_sweeps}}, {{_base_.load_annotations}}, {{_base_.rotate_scale_translate}},
    {{_base_.flip}}, {{_base_.filter_points}}, {{_base_.filter_objects_by_range}}, {{_base_.filter_objects_by_name}},
    {{_base_.shuffle_points}}, {{_base_.format_train}},
    dict(type='Collect3D', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
]
test_pipeline = [
    {{_base_.load_points}}, {{_base_.load_sweeps}},
    dict(
        type='MultiScaleFlipAug3D',
        img_scale=(1333, 800),
        pts_scale_ratio=1,
        flip=False,
        transforms=[{{_base_.filter_points}}, {{_base_.format_test}}, dict(type='Collect3D', keys=['points'])])
]
data = dict(
    train=dict(pipeline=train_pipeline, modality=input_modality),
    val=dict(pipeline=test_pipeline, modality=input_modality),
    test=dict(pipeline=test_pipeline, modality=input_modality))
optimizer = dict(lr=2e-4)
total_epochs = 1
evaluation = dict(interval=1)
load_from = 'checkpoints/cmt_synthetic.pth'
