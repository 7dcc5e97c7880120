"""From identical states and batches, a training step with the dense and one with the fused bias are the same to float
noise.
"""
import copy

import pytest
import torch


def set_impl(detector, impl):
    decoder = detector.pts_bbox_head.transformer.decoder
    for layer in decoder.layers:
        layer.attentions[decoder.attention_slot('cross_attn')].impl = impl


def gradients(detector, data, impl):
    set_impl(detector, impl)
    torch.manual_seed(1)  # dropout and denoising noise
    detector.zero_grad()
    losses = detector.train()(return_loss=True, **copy.deepcopy(data))
    total = sum(losses.values())
    total.backward()
    return total.item(), {name: p.grad.clone() for name, p in detector.named_parameters()}


@pytest.mark.parametrize('mode', [dict(), dict(aqr_per_view=True), dict(aqr_stand_ins=True),
                                  dict(aqr_stand_ins=True, aqr_per_view=True, aqr_strength_per_head=True,
                                       aqr_weight_map='log_gate'),
                                  dict(aqr_use_local_bias=True, aqr_local_window_size=dict(lidar=5, camera=15))])
def test_several_states_along_a_run(make_detector, make_data, mode):
    detector = make_detector(enable_aqr=True, **mode)
    torch.nn.init.normal_(detector.pts_bbox_head.aqr_router.mlp[-1].weight, std=0.2)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    for iteration in range(3):
        data = make_data(seed=iteration)
        buffers = copy.deepcopy(detector.state_dict())
        loss, grads = gradients(detector, data, 'dense')
        detector.load_state_dict(buffers)  # BatchNorm statistics moved
        fused_loss, fused_grads = gradients(detector, data, 'fused')
        assert fused_loss == pytest.approx(loss, rel=1e-5)
        scale = max(grad.abs().max().item() for grad in grads.values())
        for name, grad in grads.items():
            assert ((fused_grads[name] - grad).abs().max().item()
                    <= 1e-4 * max(grad.abs().max().item(), 1e-3 * scale)), name
        router = [grad for name, grad in grads.items() if 'aqr_router' in name]
        assert all(grad.abs().max() > 0 for grad in router)
        optimizer.step()
