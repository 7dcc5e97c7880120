# What routing wins where sensors lie, and which part of it wins that. Routers are plugged into detectors that stay as
# they are; the failures of training are those of configs/_base_/failure_mixtures.py.
baseline = 'cmt_synthetic_trainval.py'
published_baselines = {0: 'checkpoints/cmt_synthetic.pth', 1: 'checkpoints/cmt_synthetic_seed1.pth',
                       2: 'checkpoints/cmt_synthetic_seed2.pth'}
fair = 'untouched'
controlled = 'plug_in'
controls = ('learned', 'off', 'oracle')
arms = dict(
    untouched=dict(title='CMT', config='cmt_synthetic_trainval.py', trains='nothing'),
    plug_in=dict(title='+ router', config='cmt_aqr_plug_in_synthetic.py', trains='router'),
    no_stand_ins=dict(
        title='+ router, without stand-ins',
        config='cmt_aqr_plug_in_synthetic.py',
        options={'model.pts_bbox_head.aqr_stand_ins': 'looks'},
        trains='nothing',
        after='plug_in'),
    no_conference=dict(
        title='+ router, nobody confers',
        config='cmt_aqr_plug_in_synthetic.py',
        options={'model.pts_bbox_head.aqr_router.num_layers': 0},
        trains='router'),
    no_looks=dict(
        title='+ window router, which does not look',
        config='cmt_aqr_together_synthetic.py',
        options={
            'model.train_only': ['pts_bbox_head.aqr_router'],
            'model.pts_bbox_head.aqr_router.type': 'AQRWeightGenerator'
        }),
    plain=dict(
        title='+ window router and plain bias',
        config='cmt_aqr_together_synthetic.py',
        options={
            'model.train_only': ['pts_bbox_head.aqr_router'],
            'model.pts_bbox_head.aqr_router.type': 'AQRWeightGenerator',
            'model.pts_bbox_head.aqr_stand_ins': False,
            'model.pts_bbox_head.aqr_weight_map': 'linear',
            'model.pts_bbox_head.aqr_targets': 'preference'
        }),
    lies=dict(title='CMT trained with the failures', config='cmt_synthetic_lies.py'),
    lies_plug_in=dict(
        title='its router', config='cmt_aqr_plug_in_synthetic.py', trains='router', after='lies', against='lies'),
    together=dict(
        title='CMT and router trained together', config='cmt_aqr_together_synthetic.py', against='lies'))
cases = ('clean', 'stale_views:2@3', 'stale_views:3@3', 'glare@3', 'image_noise@3', 'camera_fog@3', 'stale_lidar@3',
         'lidar_turn:10', 'lidar_shift:2', 'lidar_fog@3', 'lidar_drop', 'camera_drop', 'view_drop:3', 'misalignment@3',
         'temporal_misalignment@3', 'miscalibration@3', 'lens_spatter@3', 'camera_rain@3', 'camera_motion_blur@3',
         'phantoms:5')
