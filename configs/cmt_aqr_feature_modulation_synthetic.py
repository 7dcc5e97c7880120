# For tools/ablation.py: features times the router's weights instead of biased attention.
_base_ = './cmt_aqr_synthetic_failures.py'
custom_imports = dict(imports=['projects.mmdet3d_plugin.experiments.feature_modulation'], allow_failed_imports=False)
model = dict(pts_bbox_head=dict(type='FeatureModulationHead'))
