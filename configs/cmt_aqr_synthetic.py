# A few minutes on the trained baseline in which only the router learns, with one sensor silenced half of the time.
_base_ = './cmt_synthetic.py'
model = dict(
    train_only=['pts_bbox_head.aqr_router'],
    auxiliary_heads=None,
    pts_bbox_head=dict(
        enable_aqr=True,
        aqr_local_window_size=dict(lidar=5, camera=9),
        aqr_router=dict(windows=dict(lidar=3, camera=7))))
optimizer = dict(lr=1e-3)
lr_config = dict(warmup_iters=20)
total_epochs = 6
evaluation = dict(interval=6)
log_config = dict(interval=10)
load_from = 'configs/checkpoints/cmt_synthetic.pth'
