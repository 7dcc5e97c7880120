"""The scheme that the attention bias replaced: features are multiplied by the router's weights."""
import dataclasses

from mmdet.models import HEADS

from ..models.dense_heads.cmt_head import CmtHead


@HEADS.register_module()
class FeatureModulationHead(CmtHead):
    """CMT whose features, not its attention scores, follow the router.

    All queries share the features, so a query's weights cannot act on it alone: BEV features are multiplied by twice
    the mean LiDAR weight of the sample's learned queries, each view's by twice the mean camera weight of those it sees.
    The neutral 0.5 leaves them as they are. Arguments as in :class:`CmtHead`.
    """

    def _apply_aqr_modulation(self, x, x_img, reference_points, img_metas, query_embed=None, denoising=None,
                              look=None):
        """As in :class:`CmtHead`, but the features change and the bias is None."""
        x, x_img, _, record = super()._apply_aqr_modulation(x, x_img, reference_points, img_metas, query_embed,
                                                            denoising, look)
        if record is None:
            return x, x_img, None, None
        learned = record.is_learned.to(record.lidar_weights)  # (Q,)
        seen = record.projections.pts_pers_valid * learned.view(1, -1, 1)  # (B, Q, V)
        lidar = (record.lidar_weights * learned).sum(dim=1) / learned.sum()  # (B,)
        # A view that no query looks into stays as it is.
        offset = ((record.camera_weights.unsqueeze(-1) - 0.5) * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        views = (0.5 + offset).flatten()  # (B * V,)
        x = x * (2 * lidar).to(x).view(-1, 1, 1, 1)
        x_img = x_img * (2 * views).to(x_img).view(-1, 1, 1, 1)
        return x, x_img, None, dataclasses.replace(record, bias=None)
