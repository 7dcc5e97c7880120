# Three epochs on a trained CMT checkpoint in which detector and conferring router learn together while sensors lie and
# fall silent.
_base_ = [
    './cmt_aqr_failures_voxel0100_r50_800x320_cbgs.py', './_base_/failure_mixtures.py', './_base_/conferring_head.py'
]
train_pipeline = [
    {{_base_.load_points}}, {{_base_.load_sweeps}}, {{_base_.load_images}}, {{_base_.load_annotations}},
    {{_base_.paste_objects}}, {{_base_.simulate_lies_and_drops}}, {{_base_.rotate_scale_translate}}, {{_base_.flip}},
    {{_base_.filter_points}}, {{_base_.filter_objects_by_range}}, {{_base_.filter_objects_by_name}},
    {{_base_.shuffle_points}},
    dict(type='ResizeCropFlipImage', data_aug_conf={{_base_.ida_aug_conf}}, training=True), {{_base_.normalize_images}},
    {{_base_.pad_images}}, {{_base_.format_train}}, {{_base_.collect_train_failures}}
]
data = dict(train=dict(dataset=dict(pipeline=train_pipeline)))
model = dict(pts_bbox_head={{_base_.conferring_head}})
