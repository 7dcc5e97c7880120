# A small CMT for CPUs: 2.25 m BEV cells (48 x 48), a ResNet-18 of half the width, three decoder layers of 128 channels.
# It is trained from scratch, so BatchNorm learns its statistics, and quickly enough for short runs.
_base_ = './cmt_voxel0100_r50.py'

voxel_size = [0.28125, 0.28125, 0.2]
grid_size = [384, 384, 40]
norm_cfg = dict(type='BN', eps=0.001, momentum=0.1)
model = dict(
    use_grid_mask=False,
    img_backbone=dict(depth=18, base_channels=32, norm_eval=False, with_cp=False),
    img_neck=dict(in_channels=[128, 256], out_channels=128),
    pts_voxel_layer=dict(voxel_size=voxel_size, max_voxels=(20000, 20000)),
    pts_middle_encoder=dict(
        sparse_shape=[41, 384, 384],
        output_channels=64,
        encoder_channels=((16, ), (32, 32), (64, 64), (64, 64)),
        encoder_paddings=((1, ), (1, 1), (1, 1), ([0, 1, 1], 1)),
        block_type='conv_module',
        norm_cfg=dict(type='BN1d', eps=0.001, momentum=0.1)),
    pts_backbone=dict(in_channels=128, out_channels=[64, 128], layer_nums=[2, 2], norm_cfg=norm_cfg),
    pts_neck=dict(in_channels=[64, 128], out_channels=[64, 64], norm_cfg=norm_cfg),
    pts_bbox_head=dict(
        in_channels=128,
        hidden_dim=128,
        num_query=150,
        scalar=2,
        bbox_coder=dict(voxel_size=voxel_size),
        transformer=dict(
            decoder=dict(
                num_layers=3,
                transformerlayers=dict(
                    attn_cfgs=[
                        dict(type='MultiheadAttention', embed_dims=128, num_heads=4, dropout=0.0),
                        dict(type='PETRMultiheadFlashAttention', embed_dims=128, num_heads=4, dropout=0.0)
                    ],
                    ffn_cfgs=dict(embed_dims=128, feedforward_channels=256),
                    feedforward_channels=256)))),
    train_cfg=dict(pts=dict(grid_size=grid_size, voxel_size=voxel_size)),
    test_cfg=dict(pts=dict(grid_size=grid_size, voxel_size=voxel_size)))
