# What a router makes of lies that it never met: every second one of the eight kinds is left out of what it learns from.
_base_ = './lying_sensors.py'
controlled = 'met_all'
controls = ('learned', )
arms = dict(
    _delete_=True,
    untouched=dict(title='CMT', config='cmt_synthetic_trainval.py', trains='nothing'),
    met_all=dict(title='+ router that met all', config='cmt_aqr_plug_in_synthetic.py', trains='router'),
    met_odd=dict(
        title='+ router that met stale views, noise, stale and shifted LiDAR',
        config='cmt_aqr_plug_in_synthetic.py',
        options={'router_training.leave_out': ['glare', 'camera_fog', 'lidar_turn', 'lidar_fog']},
        trains='router'),
    met_even=dict(
        title='+ router that met glare, turned LiDAR, fog',
        config='cmt_aqr_plug_in_synthetic.py',
        options={'router_training.leave_out': ['stale_views', 'image_noise', 'stale_lidar', 'lidar_shift']},
        trains='router'))
cases = ('clean', 'stale_views:2@3', 'stale_views:3@3', 'glare@3', 'image_noise@3', 'camera_fog@3', 'stale_lidar@3',
         'lidar_turn:10', 'lidar_shift:2', 'lidar_fog@3')
