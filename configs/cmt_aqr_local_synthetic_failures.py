_base_ = './cmt_aqr_synthetic_failures.py'
model = dict(pts_bbox_head=dict(aqr_use_local_bias=True))
