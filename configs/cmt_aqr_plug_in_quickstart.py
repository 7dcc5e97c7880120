# The quickstart: a conferring router from few samples of the small set, on a detector that never saw them. It learns
# what the failures' records say, for which the detector decodes nothing.
_base_ = './cmt_aqr_plug_in_synthetic.py'
data_root = 'data/nuscenes_synthetic/'
train_infos = data_root + 'nuscenes_infos_train.pkl'
val_infos = data_root + 'nuscenes_infos_val.pkl'
data = dict(
    train=dict(data_root=data_root, ann_file=train_infos),
    val=dict(data_root=data_root, ann_file=val_infos),
    test=dict(data_root=data_root, ann_file=val_infos))
router_training = dict(samples=640, iters=600, least_benefit=None)
log_config = dict(interval=20)
