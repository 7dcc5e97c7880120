#!/usr/bin/env python
"""What the attention bias costs, as ratios measured side by side in one run: tools/benchmark.py SUBJECT [options]

Subjects: attention (one cross-attention), head (CmtHead without and with AQR), train-step (800x320 ResNet-50 config),
monitor (AQRMonitorHook in it), router, growth (attention against queries, tokens and batch). Candidates take turns
within one process, so that the machine's other load meets them alike; the first one is the base of the ratios. Peak
memory is measured for each in a process of its own.
"""
import argparse
import copy
import json
import logging
import os
import os.path as osp
import subprocess
import sys
import time
from types import SimpleNamespace

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
import mmcv  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mmcv.runner import LogBuffer, TextLoggerHook  # noqa: E402
from mmdet3d.core.bbox import LiDARInstance3DBoxes  # noqa: E402
from mmdet3d.models import build_head, build_model  # noqa: E402

import projects.mmdet3d_plugin  # noqa: E402,F401  (before other mm imports, see its compat.py)
from projects.mmdet3d_plugin.apis import load_config  # noqa: E402
from projects.mmdet3d_plugin.hooks.aqr_monitor_hook import AQRMonitorHook  # noqa: E402
from projects.mmdet3d_plugin.models.utils.attention.backends import fused_attention  # noqa: E402
from projects.mmdet3d_plugin.models.utils.attention.channels import channel_attention  # noqa: E402
from projects.mmdet3d_plugin.models.utils.attention_bias_generator import AttentionBiasGenerator  # noqa: E402
from projects.mmdet3d_plugin.models.utils.token_layout import TokenLayout  # noqa: E402
from projects.mmdet3d_plugin.utils.atomic_file import atomic_path  # noqa: E402

CONFIGS = osp.join(osp.dirname(osp.dirname(osp.abspath(__file__))), 'configs')
# tokens -> layout of the two published configs
LAYOUTS = {22384: TokenLayout((128, 128), (6, 20, 50)), 56400: TokenLayout((180, 180), (6, 40, 100))}
LEAVES = {22384: 'voxel0100_r50_800x320_cbgs.py', 56400: 'voxel0075_vov_1600x640_cbgs.py'}
HEADS, DIMS, QUERIES = 8, 32, 900
AQR = {'no AQR': dict(enable_aqr=False), 'AQR global': dict(enable_aqr=True),
       'AQR local': dict(enable_aqr=True, aqr_use_local_bias=True, aqr_local_window_size=dict(lidar=15, camera=15))}


def camera_ring(image_size):
    """Six cameras of 70 degrees, as on nuScenes: neighbours overlap a little."""
    height, width = image_size
    focal = width / 2 / np.tan(np.radians(35))
    intrinsic = np.array([[focal, 0, width / 2, 0], [0, focal, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    matrices = []
    for yaw in np.arange(6) * np.pi / 3:
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = [[np.sin(yaw), -np.cos(yaw), 0], [0, 0, -1], [np.cos(yaw), np.sin(yaw), 0]]
        matrices.append(intrinsic @ extrinsic)
    return matrices


def image_size(layout):
    return layout.view_shape[1] * 16, layout.view_shape[2] * 16


def metas(layout, batch):
    height, width = image_size(layout)
    return [dict(lidar2img=camera_ring((height, width)), pad_shape=[(height, width, 3)] * 6,
                 box_type_3d=LiDARInstance3DBoxes) for _ in range(batch)]


def run_without_grad(forward):
    with torch.no_grad():
        forward()


def attention_candidates(args):
    """One cross-attention; the bias' weights are random and take a gradient."""
    layout, generator = LAYOUTS[args.tokens], torch.Generator().manual_seed(0)
    shapes = [(args.batch, n, HEADS, DIMS) for n in (args.queries, layout.num_tokens, layout.num_tokens)]
    query, key, value = (torch.randn(*s, generator=generator).transpose(1, 2).requires_grad_() for s in shapes)
    weights = torch.rand(2, args.batch, args.queries, generator=generator).requires_grad_()
    (height, width), (views, h, w) = layout.bev_shape, layout.view_shape
    pts_idx = torch.randint(height * width, (args.batch, args.queries), generator=generator)
    cells = torch.stack([torch.randint(h, (args.batch, args.queries, views), generator=generator),
                         torch.randint(w, (args.batch, args.queries, views), generator=generator)], dim=-1)
    first = torch.randint(views, (args.batch, args.queries, 1), generator=generator)
    seen = torch.arange(views) == first  # one view each, and one in seven an overlap
    seen |= (torch.arange(views) == (first + 1) % views) & (torch.rand(first.shape, generator=generator) < 1 / 7)
    where = dict(pts_idx=pts_idx, pts_pers_idx=cells, pts_pers_valid=seen, bev_feature_shape=layout.bev_shape,
                 pers_feature_shape=layout.view_shape)
    modes = {'global': AttentionBiasGenerator(), 'per view': AttentionBiasGenerator(per_view=True),
             'local': AttentionBiasGenerator(use_local_bias=True)}
    mha = torch.nn.MultiheadAttention(HEADS * DIMS, HEADS)

    def sketch():
        """The seed's way: a dense bias per head in nn.MultiheadAttention, whose projections are part of it."""
        bias = modes['global'](*weights, **where).repeat_interleave(HEADS, dim=0)  # (B * heads, Q, F)
        flat = [x.transpose(1, 2).flatten(2).transpose(0, 1) for x in (query, key, value)]
        return mha(*flat, attn_mask=bias, need_weights=True)[0]

    candidates = {'plain': lambda: F.scaled_dot_product_attention(query, key, value)}
    for name, mode in modes.items():
        candidates[f'{name} fused'] = lambda mode=mode: fused_attention(query, key, value,
                                                                        mode.compact(*weights, **where))
    candidates['global channels'] = lambda: channel_attention(query, key, value,
                                                              modes['global'].compact(*weights, **where))
    candidates['local dense'] = lambda: F.scaled_dot_product_attention(
        query, key, value, attn_mask=modes['local'](*weights, **where).unsqueeze(1))
    candidates['sketch: dense per head'] = sketch
    grad = torch.randn(args.batch, HEADS, args.queries, DIMS,
                       generator=generator).transpose(1, 2).contiguous().transpose(1, 2)

    def both(forward):
        out = forward()
        out.backward(grad if out.shape == grad.shape else torch.ones_like(out))

    return candidates, {'forward': run_without_grad, 'forward + backward': both}


def head_candidates(args):
    """The published head on random features, evaluation mode."""
    layout, generator = LAYOUTS[args.tokens], torch.Generator().manual_seed(0)
    cfg = load_config(osp.join(CONFIGS, f'cmt_aqr_{LEAVES[args.tokens]}'))
    in_channels = cfg.model.pts_bbox_head.in_channels
    x = torch.randn(args.batch, in_channels, *layout.bev_shape, generator=generator)
    x_img = torch.randn(args.batch * 6, 256, *layout.view_shape[1:], generator=generator)
    img_metas = metas(layout, args.batch)
    candidates = {}
    for name, options in AQR.items():
        head = build_head(dict(cfg.model.pts_bbox_head, **options, num_query=args.queries,
                               test_cfg=cfg.model.test_cfg.pts))
        head.init_weights()
        _let_router_decide(head)
        candidates[name] = lambda head=head.eval(): head([x], [x_img], img_metas)

    return candidates, {'forward': run_without_grad}


def training_data(args):
    """Random points, images and 40 boxes for the 800x320 config."""
    generator = torch.Generator().manual_seed(0)
    low, high = torch.tensor([-54.0, -54, -5, 0, 0]), torch.tensor([54.0, 54, 3, 255, 0.5])
    boxes = torch.cat([torch.rand(40, 2, generator=generator) * 90 - 45, torch.rand(40, 1, generator=generator) - 2,
                       torch.rand(40, 6, generator=generator) + 0.5], dim=1)
    return dict(points=[low + (high - low) * torch.rand(30000, 5, generator=generator)] * args.batch,
                img=torch.randn(args.batch, 6, 3, 320, 800, generator=generator),
                img_metas=metas(LAYOUTS[22384], args.batch),
                gt_bboxes_3d=[LiDARInstance3DBoxes(boxes, box_dim=9)] * args.batch,
                gt_labels_3d=[torch.randint(10, (40, ), generator=generator)] * args.batch)


def train_step_candidates(args):
    """A whole training step of the 800x320 ResNet-50 config."""
    cfg = load_config(osp.join(CONFIGS, f'cmt_aqr_{LEAVES[22384]}'))
    data = training_data(args)
    candidates = {}
    for name in ('no AQR', 'AQR global'):
        model_cfg = copy.deepcopy(cfg.model)
        model_cfg.pts_bbox_head.update(AQR[name])
        model = build_model(model_cfg)
        _let_router_decide(model.pts_bbox_head)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        candidates[name] = lambda model=model.train(), optimizer=optimizer: (model, optimizer)

    def step(parts):
        model, optimizer = parts()
        optimizer.zero_grad()
        model.train_step(copy.deepcopy(data), optimizer)['loss'].backward()
        optimizer.step()

    return candidates, {'training step': step}


def monitor_candidates(args):
    """The training step without AQRMonitorHook, with it between two looks, and while it looks."""
    model = build_model(load_config(osp.join(CONFIGS, f'cmt_aqr_{LEAVES[22384]}')).model).train()
    _let_router_decide(model.pts_bbox_head)
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-6) for name in ('no hook', 'idle', 'looking')}
    data = training_data(args)
    runners = {}
    for name, interval in dict(idle=10**9, looking=1).items():
        hook = AQRMonitorHook(interval=interval)
        runners[name] = hook, SimpleNamespace(
            model=model, optimizer=optimizers[name], rank=0, iter=0, inner_iter=0, log_buffer=LogBuffer(),
            hooks=[TextLoggerHook(interval=1)],
            logger=logging.getLogger('benchmark'))
        hook.before_run(runners[name][1])

    def step(name):
        hook, runner = runners.get(name(), (None, None))
        optimizers[name()].zero_grad()
        if hook:
            hook.before_train_iter(runner)
        outputs = model.train_step(copy.deepcopy(data), optimizers[name()])
        outputs['loss'].backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 35)
        if hook:
            runner.outputs = outputs
            runner.log_buffer.update(dict(grad_norm=float(norm)))
        optimizers[name()].step()
        if hook:
            hook.after_train_iter(runner)
            runner.iter += 1

    return {name: lambda name=name: name for name in optimizers}, {'training step': step}


def router_candidates(args):
    """The router alone beside one plain cross-attention over the same tokens."""
    layout, generator = LAYOUTS[args.tokens], torch.Generator().manual_seed(0)
    cfg = load_config(osp.join(CONFIGS, f'cmt_aqr_{LEAVES[args.tokens]}')).model.pts_bbox_head
    head = build_head(dict(cfg, num_query=args.queries, test_cfg=dict(voxel_size=cfg.bbox_coder.voxel_size)))
    _let_router_decide(head)
    x = torch.randn(args.batch, 256, *layout.bev_shape, generator=generator)
    x_img = torch.randn(args.batch * 6, 256, *layout.view_shape[1:], generator=generator)
    query = torch.randn(args.batch, args.queries, 256, generator=generator)
    reference = torch.rand(args.batch, args.queries, 3, generator=generator)
    qkv = [torch.randn(args.batch, HEADS, n, DIMS, generator=generator)
           for n in (args.queries, layout.num_tokens, layout.num_tokens)]
    img_metas = metas(layout, args.batch)
    candidates = {
        'one plain attention': lambda: F.scaled_dot_product_attention(*qkv),
        'router': lambda: head.aqr_router(query, x, x_img, reference, img_metas, head.pc_range, head.bev_cell_size,
                                          layout)[0].sum(),
    }

    return candidates, {'forward': run_without_grad}


def _let_router_decide(head):
    """Weights off 0.5, as after training: nothing may be skipped because it is neutral."""
    if head.enable_aqr:
        torch.nn.init.normal_(head.aqr_router.mlp[-1].weight, std=0.1)


def growth(args):
    """{quantity: [(value, {candidate: median seconds of forward + backward})]}, one quantity varied at a time."""
    candidates = ('plain', 'global fused', 'local fused')
    result = {}
    for quantity, values in dict(queries=(300, 900, 1500), tokens=tuple(LAYOUTS), batch=(1, 2)).items():
        for value in values:
            one = argparse.Namespace(**{**vars(args), 'subject': 'attention', 'only': candidates, quantity: value})
            rows = measure(one, ('forward + backward', ))['forward + backward']
            result.setdefault(quantity, []).append((value, {name: rows[name]['median_s'] for name in candidates}))
    return result


def print_growth(result):
    print(f'\n{"forward + backward":<20}' + ''.join(f'{name:>26}' for name in next(iter(result.values()))[0][1]))
    for quantity, points in result.items():
        for value, seconds in points:
            base = seconds['plain']
            cells = [f'{s:.3f} s ({s / base:.2f}x)' for s in seconds.values()]
            print(f'{quantity} = {value:<12}' + ''.join(f'{cell:>26}' for cell in cells))


SUBJECTS = {'attention': attention_candidates, 'head': head_candidates, 'train-step': train_step_candidates,
            'monitor': monitor_candidates, 'router': router_candidates}


def measure(args, only_passes=None):
    """{pass: {candidate: {median, quartiles, ratio, ...}}}; candidates take turns, in a new order each round."""
    candidates, passes = SUBJECTS[args.subject](args)
    passes = {title: run for title, run in passes.items() if only_passes is None or title in only_passes}
    names = [name for name in candidates if not args.only or name in args.only or name == next(iter(candidates))]
    order, results = np.random.RandomState(0), {}
    bar = mmcv.ProgressBar(len(passes) * (args.rounds + 1) * len(names), file=sys.stderr)
    for title, run in passes.items():
        seconds = {name: [] for name in names}
        for turn in range(args.rounds + 1):
            for name in order.permutation(names):
                start = time.perf_counter()
                run(candidates[name])
                if turn:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)
                bar.update()
        base = np.array(seconds[names[0]])
        results[title] = {name: dict(
            median_s=float(np.median(values)), quartiles_s=np.percentile(values, [25, 75]).tolist(),
            ratio=float(np.median(values) / np.median(base)),
            ratio_quartiles=np.percentile(np.array(values) / base, [25, 75]).tolist())
        for name, values in seconds.items()}
    print(file=sys.stderr)
    return results


def peak_memory(args, name, title):
    """MiB that one run of a candidate adds at its peak, in a process of its own."""
    command = [sys.executable, osp.abspath(__file__), args.subject, '--memory-of', name, title,
               '--tokens', str(args.tokens), '--batch', str(args.batch), '--queries', str(args.queries),
               '--threads', str(args.threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_own_peak(args):
    candidates, passes = SUBJECTS[args.subject](args)
    name, title = args.memory_of
    # Building the models and a small attention come first, so that thread pools and workspaces do not count.
    F.scaled_dot_product_attention(*torch.randn(3, 1, HEADS, 64, DIMS))
    # ru_maxrss would do, were it not inherited from the parent process; the kernel's own high-water mark can be reset.
    with open('/proc/self/clear_refs', 'w') as clear_refs:
        clear_refs.write('5')
    before = _status_kib('VmRSS')
    passes[title](candidates[name])
    print((_status_kib('VmHWM') - before) / 1024)


def _status_kib(field):
    """A field of /proc/self/status in KiB."""
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) for line in status if line.startswith(f'{field}:'))


def print_table(results):
    for title, rows in results.items():
        print(f'\n{title:<28}{"median":>10}{"quartiles":>20}{"ratio":>8}{"its quartiles":>16}{"peak MiB":>10}')
        for name, row in rows.items():
            low, high = row['quartiles_s']
            ratio_low, ratio_high = row['ratio_quartiles']
            memory = f'{row["peak_mib"]:.0f}' if 'peak_mib' in row else '-'
            print(f'  {name:<26}{row["median_s"]:>9.3f}s{f"{low:.3f}-{high:.3f}s":>20}{row["ratio"]:>8.2f}'
                  f'{f"{ratio_low:.2f}-{ratio_high:.2f}":>16}{memory:>10}')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('subject', choices=[*SUBJECTS, 'growth'])
    parser.add_argument('--tokens', type=int, choices=LAYOUTS, default=22384,
                        help='keys, as in one of the published configs')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--queries', type=int, default=QUERIES)
    parser.add_argument('--rounds', type=int, default=11, help='measured turns of each candidate')
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--only', nargs='+', metavar='NAME', help='measure these beside the base')
    parser.add_argument('--no-memory', action='store_true', help='leave out peak memory')
    parser.add_argument('--json', metavar='OUT', help='write the figures to this file')
    parser.add_argument('--plot', metavar='OUT', help='growth: write a picture to this file')
    parser.add_argument('--memory-of', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name in ('batch', 'queries', 'rounds', 'threads'):
        if getattr(args, name) < 1:
            parser.error(f'argument --{name}: must be >= 1, got {getattr(args, name)}')
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.memory_of:
        print_own_peak(args)
        return
    if args.plot and args.subject != 'growth':
        parser.error('--plot goes with growth')
    if args.subject == 'growth':
        results = growth(args)
        print_growth(results)
        if args.plot:
            from projects.mmdet3d_plugin.visualization import draw_growth
            draw_growth(args.plot, results)
    else:
        results = measure(args)
    if not args.no_memory and args.subject != 'growth':
        for title, rows in results.items():
            for name, row in rows.items():
                row['peak_mib'] = peak_memory(args, name, title)
    if args.subject != 'growth':
        print_table(results)
    if args.json:
        with atomic_path(args.json) as temporary:
            temporary.write_text(json.dumps(dict(arguments=vars(args), torch=torch.__version__, results=results),
                                            indent=1))


if __name__ == '__main__':
    main()
