# A conferring router for a detector that stays as it is: tools/train_router.py, minutes on one core.
_base_ = './cmt_aqr_together_synthetic.py'
model = dict(train_only=['pts_bbox_head.aqr_router'])
router_training = dict(samples=5100, iters=1500)
