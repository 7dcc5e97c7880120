_base_ = './cmt_aqr_synthetic.py'
model = dict(pts_bbox_head=dict(aqr_use_local_bias=True, aqr_local_window_size=dict(lidar=5, camera=9)))
