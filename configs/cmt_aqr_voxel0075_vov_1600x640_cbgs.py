_base_ = './cmt_voxel0075_vov_1600x640_cbgs.py'
model = dict(pts_bbox_head=dict(enable_aqr=True))
