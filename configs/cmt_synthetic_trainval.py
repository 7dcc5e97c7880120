# The baselines from scratch on a larger synthetic set: one run each, seeds 0 to 2 (checkpoints/cmt_synthetic.md).
_base_ = './cmt_synthetic.py'
data_root = 'data/nuscenes_synthetic_trainval/'
train_infos = data_root + 'nuscenes_infos_train.pkl'
val_infos = data_root + 'nuscenes_infos_val.pkl'
data = dict(
    train=dict(data_root=data_root, ann_file=train_infos),
    val=dict(data_root=data_root, ann_file=val_infos),
    test=dict(data_root=data_root, ann_file=val_infos))
total_epochs = 7
evaluation = dict(interval=7)
