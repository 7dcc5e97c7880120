# A conferring router for a published CMT checkpoint that stays as it is: tools/train_router.py CONFIG CHECKPOINT. The
# evidence takes 1 MB a sample on disk.
_base_ = './cmt_aqr_together_voxel0100_r50_800x320_cbgs.py'
model = dict(train_only=['pts_bbox_head.aqr_router'])
router_training = dict(samples=8000, iters=3000, least_benefit=0.01, caution=0.1)
