_base_ = './cmt_aqr_voxel0100_r50_800x320_cbgs.py'
model = dict(pts_bbox_head=dict(aqr_use_local_bias=True, aqr_local_window_size=dict(lidar=5, camera=15)))
