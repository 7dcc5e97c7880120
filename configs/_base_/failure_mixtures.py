# What strikes in training: sensors that lie and sensors that are silent. All six cameras of another scene and LiDAR of
# another scene are the same observation; of the two, LiDAR is in.
simulate_lies_and_drops = dict(
    type='SimulateFailure',
    cases={
        'clean': 0.2,
        'stale_views:2@3': 0.05,
        'stale_views:3@3': 0.05,
        'stale_views:3@1': 0.03,
        'glare@3': 0.05,
        'glare:3@3': 0.03,
        'image_noise@3': 0.05,
        'image_noise:3@3': 0.03,
        'camera_fog@3': 0.05,
        'stale_lidar@3': 0.06,
        'lidar_turn:10': 0.06,
        'lidar_shift:2': 0.06,
        'lidar_fog@3': 0.05,
        'lidar_drop': 0.05,
        'camera_drop': 0.05,
        'view_drop:1': 0.03,
        'view_drop:3': 0.04,
        'fov:60': 0.04,
        'object_failure:0.5': 0.02
    })
