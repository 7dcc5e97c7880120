_base_ = [
    './_base_/models/cmt_voxel0075_vov.py', './_base_/datasets/nuscenes_1600x640.py',
    './_base_/schedules/cyclic_20e.py', './_base_/default_runtime.py'
]
optimizer = dict(lr=0.0001)     # for 8 GPUs x 2 samples
lr_config = dict(target_ratio=(8, 0.0001))
load_from = 'ckpts/fcos3d_vovnet_imgbackbone-remapped.pth'
