_base_ = [
    './_base_/models/cmt_voxel0100_r50.py', './_base_/datasets/nuscenes_800x320.py', './_base_/schedules/cyclic_20e.py',
    './_base_/default_runtime.py'
]
load_from = 'ckpts/nuim_r50.pth'
