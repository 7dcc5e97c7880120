# Every layer and head learns how strong its bias is.
_base_ = './cmt_aqr_synthetic_failures.py'
model = dict(pts_bbox_head=dict(aqr_strength_per_head=True))
# Few numbers, which have far to go in few iterations.
optimizer = dict(
    paramwise_cfg=dict(custom_keys={'pts_bbox_head.aqr_head_strength': dict(lr_mult=50.0, decay_mult=0.0)}))
