# A trained baseline learns on while sensors lie and fall silent: what routers on lies are compared with.
_base_ = ['./cmt_synthetic_failures.py', './_base_/failure_mixtures.py']
train_pipeline = [
    {{_base_.load_points}}, {{_base_.load_sweeps}}, {{_base_.load_images}}, {{_base_.load_annotations}},
    {{_base_.simulate_lies_and_drops}}, {{_base_.rotate_scale_translate}}, {{_base_.flip}}, {{_base_.filter_points}},
    {{_base_.filter_objects_by_range}}, {{_base_.filter_objects_by_name}}, {{_base_.shuffle_points}},
    dict(type='ResizeCropFlipImage', data_aug_conf={{_base_.ida_aug_conf}}, training=True), {{_base_.normalize_images}},
    {{_base_.pad_images}}, {{_base_.format_train}}, {{_base_.collect_train_failures}}
]
data = dict(train=dict(pipeline=train_pipeline))
