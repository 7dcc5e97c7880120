# A CMT that one CPU core trains from scratch in two hours: pillars, 32 x 32 BEV cells of 1.8 m, ResNet-18 of 3/8 of the
# width. Scores are bounded (query-key normalization) and attention starts local: without that one modality wins.
_base_ = './cmt_voxel0100_r50.py'

pc_range = [-28.8, -28.8, -3.0, 28.8, 28.8, 3.0]
voxel_size = [0.45, 0.45, 6.0]
grid_size = [128, 128, 1]
out_size_factor = 4
hidden_dim = 96
norm_cfg = dict(type='BN', eps=0.001, momentum=0.1)
geometry = dict(point_cloud_range=pc_range, grid_size=grid_size, voxel_size=voxel_size, out_size_factor=out_size_factor)
model = dict(
    use_grid_mask=False,
    auxiliary_heads=dict(
        bev=dict(
            type='BEVAuxiliaryHead', in_channels=192, num_classes=10, pc_range=pc_range, cell_size=[1.8, 1.8],
            heading_bins=12),
        camera=dict(type='CameraAuxiliaryHead', in_channels=hidden_dim, num_classes=10, heading_bins=12)),
    img_backbone=dict(
        depth=18, base_channels=24, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(1, 2),
        norm_eval=False, with_cp=False),
    img_neck=dict(in_channels=[48, 96], out_channels=hidden_dim),
    pts_voxel_layer=dict(
        max_num_points=12, voxel_size=voxel_size, max_voxels=(16384, 16384), point_cloud_range=pc_range),
    pts_voxel_encoder=dict(
        _delete_=True, type='PillarFeatureNet', in_channels=5, feat_channels=[32], with_distance=False,
        voxel_size=voxel_size, point_cloud_range=pc_range, norm_cfg=dict(type='SparseBN1d', eps=0.001, momentum=0.1),
        legacy=False),
    pts_middle_encoder=dict(_delete_=True, type='PointPillarsScatter', in_channels=32, output_shape=grid_size[:2]),
    pts_backbone=dict(
        in_channels=32, out_channels=[48, 96], layer_nums=[1, 3], layer_strides=[2, 2], norm_cfg=norm_cfg),
    pts_neck=dict(in_channels=[48, 96], out_channels=[96, 96], upsample_strides=[0.5, 1], norm_cfg=norm_cfg),
    pts_bbox_head=dict(
        in_channels=192,
        hidden_dim=hidden_dim,
        downsample_scale=out_size_factor,
        num_query=200,
        scalar=3,
        depth_num=4,
        position_cycles=6,
        position_gain=2.0,
        bbox_coder=dict(pc_range=pc_range, voxel_size=voxel_size, post_center_range=[-35, -35, -10, 35, 35, 10]),
        transformer=dict(
            local_start=2.0,
            position_in_content=True,
            decoder=dict(
                num_layers=3,
                transformerlayers=dict(
                    attn_cfgs=[
                        dict(type='MultiheadAttention', embed_dims=hidden_dim, num_heads=4, dropout=0.0),
                        dict(
                            type='PETRMultiheadFlashAttention',
                            embed_dims=hidden_dim,
                            num_heads=4,
                            dropout=0.0,
                            qk_norm=20.0)
                    ],
                    ffn_cfgs=dict(embed_dims=hidden_dim, feedforward_channels=2 * hidden_dim),
                    feedforward_channels=2 * hidden_dim)))),
    train_cfg=dict(pts=dict(assigner=dict(pc_range=pc_range), **geometry)),
    test_cfg=dict(pts=dict(pc_range=pc_range, **geometry)))
