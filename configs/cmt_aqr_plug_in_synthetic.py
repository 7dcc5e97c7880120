# A conferring router for a detector that stays as it is: tools/train_router.py, minutes on one core. It learns distrust
# where this lowers the detector's loss.
_base_ = './cmt_aqr_together_synthetic.py'
model = dict(train_only=['pts_bbox_head.aqr_router'])
router_training = dict(samples=4500, iters=2000, least_benefit=0.01, caution=0.1)
