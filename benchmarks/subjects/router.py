"""The router alone, beside one plain cross-attention over the same tokens, of which a decoder has six."""
import torch
import torch.nn.functional as F

from benchmarks.harness import Comparison

from .scenes import AQR, attention_inputs, features, layout_of, metas, published_head, run_without_grad


def build(settings):
    """Compare the router with an attention; both take random inputs."""
    generator = torch.Generator().manual_seed(0)
    head = published_head(settings, **AQR['AQR global'])
    channels = head.hidden_dim
    x, x_img = features(settings, channels, channels, generator)  # as the head's convolution leaves them
    query = torch.randn(settings.batch, settings.queries, channels, generator=generator)
    reference = torch.rand(settings.batch, settings.queries, 3, generator=generator)
    qkv = attention_inputs(settings, generator)
    img_metas, layout = metas(settings.scale, settings.batch), layout_of(settings.scale)
    candidates = {
        'one plain attention': lambda: F.scaled_dot_product_attention(*qkv),
        'router': lambda: head.aqr_router(query, x, x_img, reference, img_metas, head.pc_range, head.bev_cell_size,
                                          layout),
    }
    return Comparison(candidates, {'forward': run_without_grad})
