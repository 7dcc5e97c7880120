# What tools/ablation.py compares: arms that train on from one baseline, with equal data, failures and iterations.
baseline = 'cmt_synthetic_trainval.py'
published_baselines = {0: 'checkpoints/cmt_synthetic.pth'}
fair = 'failures'
controlled = 'aqr_global'
arms = dict(
    failures=dict(title='CMT + failure training', config='cmt_synthetic_failures.py'),
    aqr_global=dict(title='+ AQR, global', config='cmt_aqr_synthetic_failures.py'),
    aqr_local=dict(title='+ AQR, local', config='cmt_aqr_local_synthetic_failures.py'),
    aqr_unsupervised=dict(
        title='+ AQR, global, no supervision',
        config='cmt_aqr_synthetic_failures.py',
        options={'model.pts_bbox_head.aqr_loss_weight': 0.0}),
    aqr_gentle=dict(
        title='+ AQR, global, strength 1',
        config='cmt_aqr_synthetic_failures.py',
        options={'model.pts_bbox_head.aqr_bias_strength': 1.0}),
    aqr_per_view=dict(
        title='+ AQR, global, views that see the query',
        config='cmt_aqr_synthetic_failures.py',
        options={'model.pts_bbox_head.aqr_per_view': True}),
    aqr_per_head=dict(
        title='+ AQR, global, strength learned per head', config='cmt_aqr_per_head_synthetic_failures.py'),
    modulation=dict(title='+ AQR as feature modulation', config='cmt_aqr_feature_modulation_synthetic.py'))
cases = ('clean', 'lidar_drop', 'camera_drop', 'view_drop:3', 'fov:60', 'object_failure:0.5', 'beams:4')
