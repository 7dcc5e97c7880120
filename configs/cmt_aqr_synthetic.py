# A few minutes on the trained baseline in which only the router learns, told where simulated failures struck.
_base_ = './cmt_aqr_synthetic_failures.py'
data_root = 'data/nuscenes_synthetic/'
train_infos = data_root + 'nuscenes_infos_train.pkl'
val_infos = data_root + 'nuscenes_infos_val.pkl'
data = dict(
    train=dict(data_root=data_root, ann_file=train_infos),
    val=dict(data_root=data_root, ann_file=val_infos),
    test=dict(data_root=data_root, ann_file=val_infos))
# A frozen detector loses mAP with a strong bias (docs/experiments.md).
model = dict(train_only=['pts_bbox_head.aqr_router'], pts_bbox_head=dict(aqr_bias_strength=1.0))
lr_config = dict(warmup_iters=20)
total_epochs = 6
evaluation = dict(interval=6)
log_config = dict(interval=10)
