# The quickstart: a conferring router from few samples of the small set, on a detector that never saw them.
_base_ = './cmt_aqr_plug_in_synthetic.py'
data_root = 'data/nuscenes_synthetic/'
train_infos = data_root + 'nuscenes_infos_train.pkl'
val_infos = data_root + 'nuscenes_infos_val.pkl'
data = dict(
    train=dict(data_root=data_root, ann_file=train_infos),
    val=dict(data_root=data_root, ann_file=val_infos),
    test=dict(data_root=data_root, ann_file=val_infos))
router_training = dict(samples=640, iters=600, least_benefit=None)  # the detector decodes a sample once, not three times
log_config = dict(interval=20)
