"""Attention to keys that are projected a few at a time, on CPU without gradients.

Softmax over all keys is the mixture of softmaxes over runs of keys (docs/design.md, "Exact fused attention"), so that
projected keys need not be there all at once: a few stay in the cache, all of a published model do not.
"""
import math

import torch

CHUNK_KEYS = 2048
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def can_chunk(device):
    """Whether :func:`attend_in_chunks` serves now: it keeps no gradients and needs kernels that return log-sum-exps."""
    return device.type == 'cpu' and not torch.is_grad_enabled()


def attend_in_chunks(query, keys_of, keys, mask=None):
    """``softmax(q k^T / sqrt(d) + mask) v`` over a run of keys.

    Args:
        query (Tensor): (B, heads, Q, d), Q >= 1.
        keys_of (Callable): slice of keys -> key and value (B, heads, K, d) of these.
        keys (slice): the run, not empty.
        mask (Tensor | None): finite, (B, heads or 1, Q, K) for the run.

    Returns:
        tuple[Tensor, Tensor]: (B, heads, Q, d), and (B, heads, Q) log-sum-exp of the scores, float32 or wider.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    scale, outs, lses = 1 / math.sqrt(query.shape[-1]), [], []
    for start in range(keys.start, keys.stop, CHUNK_KEYS):
        chunk = slice(start, min(start + CHUNK_KEYS, keys.stop))
        own_mask = None if mask is None else mask[..., start - keys.start:chunk.stop - keys.start]
        out, lse = _flash(query, *keys_of(chunk), 0.0, False, attn_mask=own_mask, scale=scale)[:2]
        outs.append(out)
        lses.append(lse.to(wide))
    if len(outs) == 1:
        return outs[0], lses[0]
    lses = torch.stack(lses)
    lse = lses.logsumexp(dim=0)
    return sum(out * share.unsqueeze(-1) for out, share in zip(outs, (lses - lse).exp())), lse
