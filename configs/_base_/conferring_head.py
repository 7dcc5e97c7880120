# For the head of a CMT: a router that judges by looks with one sensor at a time, and stand-ins for a sensor that it
# distrusts. At most 78 % of a sensor's attention is taken (bias -1.5).
conferring_head = dict(
    enable_aqr=True,
    aqr_router=dict(type='ConferringRouter'),
    aqr_stand_ins=True,
    aqr_weight_map='log_gate',
    aqr_bias_strength=1.5,
    aqr_targets='trust',
    aqr_loss_weight=1.0)
