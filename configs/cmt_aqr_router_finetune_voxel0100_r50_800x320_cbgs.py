# One epoch on a trained CMT checkpoint in which only the router learns; everything else is frozen, BatchNorm statistics
# included. To let the rest follow at a hundredth of the router's learning rate instead:
#   --cfg-options model.train_only=None optimizer.lr=1.4e-6 optimizer.paramwise_cfg.custom_keys.aqr_router.lr_mult=100
_base_ = './cmt_aqr_voxel0100_r50_800x320_cbgs.py'
model = dict(train_only=['pts_bbox_head.aqr_router'])
total_epochs = 1
evaluation = dict(interval=1)
load_from = 'ckpts/cmt_voxel0100_r50_800x320_cbgs.pth'
