_base_ = './cmt_voxel0100_r50_800x320_cbgs.py'
model = dict(pts_bbox_head=dict(enable_aqr=True))
