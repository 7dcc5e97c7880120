# AQR learns from a trained baseline while sensors fail; the router is told where.
_base_ = './cmt_synthetic_failures.py'
model = dict(
    pts_bbox_head=dict(
        enable_aqr=True,
        aqr_loss_weight=1.0,
        aqr_local_window_size=dict(lidar=5, camera=9),
        aqr_router=dict(windows=dict(lidar=3, camera=7))))
# The router starts from nothing.
optimizer = dict(paramwise_cfg=dict(custom_keys={'pts_bbox_head.aqr_router': dict(lr_mult=5.0)}))
