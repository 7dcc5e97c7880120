# CMT with 0.075 m voxels and VoVNet-99; the grid covers the whole range.
_base_ = './cmt_voxel0100_r50.py'

voxel_size = [0.075, 0.075, 0.2]
grid_size = [1440, 1440, 40]
model = dict(
    img_backbone=dict(
        _delete_=True,
        type='VoVNet',
        spec_name='V-99-eSE',
        input_ch=3,
        out_features=('stage4', 'stage5'),
        frozen_stages=-1,
        norm_eval=True),
    img_neck=dict(in_channels=[768, 1024]),
    pts_voxel_layer=dict(voxel_size=voxel_size),
    pts_middle_encoder=dict(sparse_shape=[41, 1440, 1440]),
    pts_bbox_head=dict(bbox_coder=dict(voxel_size=voxel_size)),
    train_cfg=dict(pts=dict(grid_size=grid_size, voxel_size=voxel_size)),
    test_cfg=dict(pts=dict(grid_size=grid_size, voxel_size=voxel_size)))
