#!/usr/bin/env python
"""Are the biased attentions right on this machine's GPU, and what do they cost there? benchmarks/gpu_check.py [options]

Needs this checkout and torch (2.6 or newer) alone: no mmcv, mmdet or mmdet3d, which a bare GPU machine does not have.
First every back end that serves the device is compared with attention in float64 whose bias is written out, outputs and
all gradients, in float32, float16 and bfloat16; then attention with each kind of bias is timed beside plain
scaled_dot_product_attention at the sizes of the published configs. The exit code is 1 if anything failed.
"""
import argparse
import dataclasses
import functools
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Callable, Tuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.settings import SCALES  # noqa: E402

HEADS, DIMS = 8, 32
# Largest error of a tensor, relative to its largest entry (and at least to FLOOR times the largest of all tensors: one
# that cancels to zero still carries the rounding of its terms).
TOLERANCES = dict(float32=1e-4, float16=0.01, bfloat16=0.05)
FLOOR = 1e-2
KINDS = ('global', 'global per head', 'local', 'local per head', 'stand-ins')
TIMED_KINDS = ('global', 'local', 'stand-ins')
WINDOWS = dict(lidar=5, camera=15)  # cells, as in the published local config
TRAINED = ('configs/cmt_aqr_synthetic.py', 'configs/cmt_aqr_local_synthetic.py')


@dataclass(frozen=True)
class Size:
    """Of one attention: (H, W) of the BEV map, (V, h, w) of the camera views, and the number of queries."""

    bev_shape: Tuple[int, int]
    view_shape: Tuple[int, int, int]
    queries: int

    @property
    def shapes(self):
        """Shapes of the bias' segments: the BEV map and each view."""
        views, *view = self.view_shape
        return (self.bev_shape, *[tuple(view)] * views)


SIZES = {'small': Size((12, 13), (2, 4, 6), 20),
         **{str(tokens): Size(scale.bev_shape, scale.view_shape, 900) for tokens, scale in SCALES.items()}}
# Neither queries nor keys are a multiple of the kernels' blocks; one query takes other kernels.
CHECKED_SIZES = {'small': (Size((12, 13), (2, 4, 6), 20), ),
                 'large': (Size((65, 63), (6, 20, 50), 300), Size((65, 63), (6, 20, 50), 1))}


def find_rooms():
    """Make the torch-only rooms of the package importable where the package itself is not.

    Importing a room first runs the __init__ of every folder above it. Two of them register detectors with
    mmdetection3d: that of the package and that of models/. Empty modules that know their folder take their places; what
    lies below is imported as usual. Where the package is loaded already, it stays.
    """
    for name in ('projects.mmdet3d_plugin', 'projects.mmdet3d_plugin.models'):
        if name not in sys.modules:
            folder = types.ModuleType(name)
            folder.__path__ = [str(ROOT.joinpath(*name.split('.')))]
            sys.modules[name] = folder


def make_parser():
    """argparse.ArgumentParser: the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', help='cuda, cuda:N, or cpu for a dry run (default: cuda, an error where there is '
                        'none)')
    parser.add_argument('--tokens', nargs='+', choices=SIZES, metavar='N',
                        help=f'timed sizes, of {", ".join(SIZES)} (default: the published ones; on cpu: small)')
    parser.add_argument('--rounds', type=int, default=20, help='measured turns of each attention')
    parser.add_argument('--train', action='store_true',
                        help='then train the small model on synthetic data for an epoch, with global and with local '
                        'bias; needs mmcv and its relatives')
    parser.add_argument('--json', metavar='FILE', help='write all figures to this file')
    return parser


def parse(parser, argv):
    """Parse the command line; the device is chosen here, before any work."""
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error(f'argument --rounds: must be >= 2, got {args.rounds}')
    # Late: torch takes seconds, and --help is answered at once without it.
    import torch
    if tuple(map(int, torch.__version__.split('.')[:2])) < (2, 6):
        parser.error(f'torch must be 2.6 or newer, whose flex_attention is checked, got {torch.__version__}')
    if args.device is None and not torch.cuda.is_available():
        parser.error('no CUDA device found (torch.cuda.is_available() is False); --device cpu is the dry run')
    try:
        args.device = torch.device(args.device or 'cuda')
    except RuntimeError as error:
        parser.error(f'argument --device: {error}')
    if args.device.type not in ('cuda', 'cpu'):
        parser.error(f'argument --device: must be cuda, cuda:N or cpu, got {args.device}')
    if args.device.type == 'cuda' and not (args.device.index or 0) < torch.cuda.device_count():
        parser.error(f'argument --device: {args.device} is not there, torch finds {torch.cuda.device_count()} CUDA '
                     'devices')
    args.tokens = args.tokens or (['small'] if args.device.type == 'cpu' else [str(tokens) for tokens in SCALES])
    return args


def make_inputs(size, kind, dtype, device):
    """Random query, key, value (1, heads, N, d) of ``dtype`` and the numbers of a bias, float32, all with gradient.

    Returns:
        tuple: [query, key, value], values (1, Q, S) or (1, heads, Q, S), and a function: values -> AttentionBias.
    """
    import torch

    from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias
    from projects.mmdet3d_plugin.models.utils.attention.stand_ins import with_stand_ins
    generator = torch.Generator().manual_seed(0)
    shapes, queries = size.shapes, size.queries
    tokens = sum(height * width for height, width in shapes)
    keys = 2 * tokens if kind == 'stand-ins' else tokens
    inputs = [torch.randn(1, HEADS, n, DIMS, generator=generator).to(device, dtype).requires_grad_()
              for n in (queries, keys, keys)]
    shape = (1, HEADS, queries, len(shapes)) if kind.endswith('per head') else (1, queries, len(shapes))
    values = (torch.randn(shape, generator=generator) * 2).to(device).requires_grad_()
    if not kind.startswith('local'):
        wrap = with_stand_ins if kind == 'stand-ins' else (lambda bias: bias)
        return inputs, values, lambda values: wrap(AttentionBias(values, shapes))
    cells = torch.stack([torch.stack([torch.randint(size, (1, queries), generator=generator) for size in shape], -1)
                         for shape in shapes], dim=2)  # (1, Q, S, 2)
    seen = torch.zeros(1, queries, len(shapes), dtype=torch.bool)
    seen[..., 0] = torch.rand(1, queries, generator=generator) < 0.9
    view = torch.randint(1, len(shapes), (1, queries, 1), generator=generator)
    seen.scatter_(-1, view, True)
    cells, seen = torch.where(seen.unsqueeze(-1), cells, -1).to(device), seen.to(device)
    windows = (WINDOWS['lidar'], ) + (WINDOWS['camera'], ) * (len(shapes) - 1)
    return inputs, values, lambda values: AttentionBias(values, shapes, cells, seen, windows)


def dense_attention(query, key, value, bias):
    """The definition: all scores and all biases written out."""
    from projects.mmdet3d_plugin.models.utils.attention.reference import reference_attention
    dense = bias.dense_scores()
    return reference_attention(query, key, value, dense if dense.dim() == 4 else dense.unsqueeze(1))[0]


def outputs_and_gradients(attend, inputs, values, make_bias):
    """dict[str, Tensor]: output and gradients in float64, for a fixed random gradient of the output."""
    import torch
    inputs = [x.detach().requires_grad_() for x in inputs]
    values = values.detach().requires_grad_()
    out = attend(*inputs, make_bias(values))
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out)
    grads = torch.autograd.grad((out * weight).sum(), [*inputs, values])
    return {name: x.double() for name, x in zip(('output', 'dq', 'dk', 'dv', 'dvalues'), (out, *grads))}


def largest_error(found, expected):
    """Largest error of any tensor by the scale that :data:`TOLERANCES` speak of; inf where a number is not finite."""
    import torch
    floor = FLOOR * max(want.abs().max().item() for want in expected.values())
    if not all(torch.isfinite(got).all() for got in found.values()):
        return float('inf')
    return max((found[name] - want).abs().max().item() / max(want.abs().max().item(), floor)
               for name, want in expected.items())


def checked_back_ends(bias, device):
    """Those that serve a bias on a device. Flex is for windows: compiling it for other biases, which go to channels,
    would take minutes. On CPU, which it does not serve, its eager form is checked.
    """
    from projects.mmdet3d_plugin.models.utils.attention import backends
    return [backend for backend in backends.BACKENDS
            if (bias.is_local and (device.type == 'cpu' or backend.obstacle(bias, device) is None)
                if backend.name == 'flex' else backend.obstacle(bias, device) is None)]


def check(sizes, device):
    """Compare every back end with the definition in float64.

    Returns:
        list[dict]: ``queries``, ``kind`` of bias, ``dtype``, ``back_end``, ``error`` (None where it raised),
        ``tolerance``, ``passed``, and ``message`` where it raised.
    """
    import torch
    rows = []
    for size in sizes:
        for kind in KINDS:
            for name, tolerance in TOLERANCES.items():
                inputs, values, make_bias = make_inputs(size, kind, getattr(torch, name), device)
                expected = outputs_and_gradients(dense_attention, [x.double() for x in inputs], values.double(),
                                                 make_bias)
                for backend in checked_back_ends(make_bias(values), device):
                    row = dict(queries=size.queries, kind=kind, dtype=name, back_end=backend.name, error=None,
                               tolerance=tolerance, passed=False)
                    torch.compiler.reset()  # past eight recompilations torch would fall back to eager mode
                    try:
                        found = outputs_and_gradients(backend.run, inputs, values, make_bias)
                        row['error'] = largest_error(found, expected)
                        row['passed'] = row['error'] <= tolerance
                    except Exception as error:  # such as a kernel that this GPU cannot compile: the others go on
                        row['message'] = f'{type(error).__name__}: {error}'
                    rows.append(row)
                    show_check(row)
    return rows


def show_check(row):
    """Print one row of the table of checks."""
    error = 'raised' if row['error'] is None else f'{row["error"]:.1e}'
    print(f'{"ok" if row["passed"] else "FAILED":<8}{row["back_end"]:<12}{row["kind"]:<18}{row["dtype"]:<10}'
          f'{row["queries"]:>5} queries   error {error:>8}, allowed {row["tolerance"]:.0e}', flush=True)
    if 'message' in row:
        print(f'        {row["message"]}')


@dataclass(frozen=True)
class Candidate:
    """An attention to time: a function without arguments, and the tensors whose gradients a training step wants."""

    attend: Callable
    leaves: list

    def forward(self):
        """One attention without gradient."""
        import torch
        with torch.no_grad():
            self.attend()

    def forward_and_backward(self):
        """One attention and its gradients, of an output's gradient laid out as the output projection leaves it."""
        import torch
        out = self.attend()
        torch.autograd.grad(out, self.leaves, torch.ones_like(out.transpose(1, 2).contiguous()).transpose(1, 2))


PASSES = {'forward': Candidate.forward, 'forward + backward': Candidate.forward_and_backward}


def timed_candidates(size, dtype, device):
    """dict[str, Candidate]: plain attention, then that with each kind of bias, made anew, as the first layer of a
    decoder finds it, or at hand, as the other layers do.
    """
    import torch.nn.functional as F

    from projects.mmdet3d_plugin.models.utils.attention.backends import fused_attention

    def with_dense_mask(query, key, value, bias):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.dense_scores().unsqueeze(1).to(dtype))

    plain, *_ = make_inputs(size, 'global', dtype, device)
    candidates = {'plain': Candidate(functools.partial(F.scaled_dot_product_attention, *plain), plain)}
    for kind in TIMED_KINDS:
        inputs, values, make_bias = make_inputs(size, kind, dtype, device)
        at_hand = make_bias(values)
        at_hand = dataclasses.replace(at_hand, values=at_hand.values.detach().requires_grad_())
        anew = functools.partial(lambda inputs, values, make_bias: fused_attention(*inputs, make_bias(values)),
                                 inputs, values, make_bias)
        candidates[kind] = Candidate(anew, [*inputs, values])
        candidates[f'{kind}, bias at hand'] = Candidate(functools.partial(fused_attention, *inputs, at_hand),
                                                        [*inputs, at_hand.values])
        if kind == 'local':
            candidates['local as a dense mask'] = Candidate(functools.partial(with_dense_mask, *inputs, at_hand),
                                                            [*inputs, at_hand.values])
    return candidates


def seconds_of(run, device):
    """Seconds of one run: between two events on a GPU, by the clock on a CPU."""
    import torch
    if device.type == 'cpu':
        start = perf_counter()
        run()
        return perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def peak_mib(run, device):
    """MiB that one run adds to the allocated memory of the GPU at its peak; None on CPU."""
    import torch
    if device.type == 'cpu':
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def measure(size, dtype, device, rounds):
    """Time the candidates in turns, in a new order each round, after three turns that warm up (and compile).

    Returns:
        dict[str, dict[str, dict]]: pass -> candidate -> ``median_s``, ``quartiles_s``, ``ratio`` of the medians to
        plain, ``ratio_quartiles`` of the rounds' own ratios, ``peak_mib``; or ``message`` where it raised.
    """
    import torch
    torch.compiler.reset()  # kernels for this size alone
    candidates, results, order = timed_candidates(size, dtype, device), {}, random.Random(0)
    for title, run in PASSES.items():
        rows, runs = {}, {name: functools.partial(run, candidate) for name, candidate in candidates.items()}
        for name in list(runs):
            try:
                for _ in range(3):
                    runs[name]()
                rows[name] = dict(peak_mib=peak_mib(runs[name], device))
            except Exception as error:  # such as too little memory: the others are measured all the same
                rows[name] = dict(message=f'{type(error).__name__}: {error}')
                del runs[name]
        seconds = {name: [] for name in runs}
        for _ in range(rounds):
            for name in order.sample(list(runs), len(runs)):
                seconds[name].append(seconds_of(runs[name], device))
        for name, own in seconds.items():
            rows[name].update(figures(own, seconds['plain']))
        results[title] = rows
    return results


def figures(seconds, base):
    """Median and quartiles of a candidate's seconds, and of their ratios to plain attention in the same rounds."""
    def quartiles(numbers):
        low, _, high = statistics.quantiles(numbers, n=4, method='inclusive')
        return [low, high]

    return dict(median_s=statistics.median(seconds), quartiles_s=quartiles(seconds),
                ratio=statistics.median(seconds) / statistics.median(base),
                ratio_quartiles=quartiles([own / plain for own, plain in zip(seconds, base)]))


def show_measured(tokens, dtype, results):
    """Print the table of one size."""
    for title, rows in results.items():
        print(f'\n{f"{tokens} tokens, {dtype}, {title}":<44}{"median":>10}{"quartiles":>20}{"ratio":>7}'
              f'{"its quartiles":>15}{"peak MiB":>10}')
        for name, row in rows.items():
            if 'message' in row:
                print(f'  {name:<42}{row["message"]}')
                continue
            low, high = (1000 * x for x in row['quartiles_s'])
            ratios = '-'.join(f'{x:.2f}' for x in row['ratio_quartiles'])
            peak = '-' if row['peak_mib'] is None else f'{row["peak_mib"]:.0f}'
            print(f'  {name:<42}{1000 * row["median_s"]:>8.3f}ms{f"{low:.3f}-{high:.3f}ms":>20}{row["ratio"]:>7.2f}'
                  f'{ratios:>15}{peak:>10}')


def train():
    """Train the small model for an epoch with global and with local bias, by tools/train.py.

    Returns:
        dict: ``skipped`` and why, or ``passed`` and the ``seconds`` of each config.
    """
    missing = [name for name in ('mmcv', 'mmdet', 'mmdet3d') if importlib.util.find_spec(name) is None]
    if missing:
        return dict(skipped=f'{", ".join(missing)} not installed (tools/setup_env.sh installs them)')
    data = ROOT / 'data/nuscenes_synthetic/nuscenes_infos_train.pkl'
    if not data.exists():
        return dict(skipped=f'{data} is missing (tools/quickstart.sh makes it)')
    seconds, passed = {}, True
    with tempfile.TemporaryDirectory() as folder:
        for config in TRAINED:
            start = perf_counter()
            done = subprocess.run([sys.executable, 'tools/train.py', config, '--no-validate', '--work-dir',
                                   f'{folder}/{Path(config).stem}', '--cfg-options', 'total_epochs=1'], cwd=ROOT)
            seconds[config], passed = perf_counter() - start, passed and not done.returncode
    return dict(passed=passed, seconds=seconds)


def describe(device):
    """dict: versions and the name of the card."""
    import torch
    found = dict(torch=torch.__version__, device=str(device), cuda=torch.version.cuda)
    if device.type == 'cuda':
        found.update(card=torch.cuda.get_device_name(device), memory_gib=round(
            torch.cuda.get_device_properties(device).total_memory / 2**30, 1),
                     capability=list(torch.cuda.get_device_capability(device)))
    return found


def main(argv=None):
    start = perf_counter()
    args = parse(make_parser(), argv)
    find_rooms()
    import torch

    from projects.mmdet3d_plugin.utils.atomic_file import atomic_path, check_destination
    if args.json:
        check_destination(args.json)
    report = describe(args.device)
    print(', '.join(f'{name} {value}' for name, value in report.items()))
    report['checks'] = check(CHECKED_SIZES['small' if args.tokens == ['small'] else 'large'], args.device)
    dtype = torch.float32 if args.device.type == 'cpu' else torch.float16
    report['times'] = {}
    for tokens in args.tokens:
        report['times'][tokens] = measure(SIZES[tokens], dtype, args.device, args.rounds)
        show_measured(tokens, str(dtype).split('.')[-1], report['times'][tokens])
    passed = all(row['passed'] for row in report['checks']) and not any(
        'message' in row for results in report['times'].values() for rows in results.values() for row in rows.values())
    if args.train:
        report['training'] = train()
        print(f'\ntraining: {report["training"]}')
        passed = passed and report['training'].get('passed', True)
    report.update(passed=passed, seconds=perf_counter() - start)
    if args.json:
        with atomic_path(args.json) as temporary:
            temporary.write_text(json.dumps(report, indent=1))
    failed = sum(not row['passed'] for row in report['checks'])
    print(f'\n{len(report["checks"]) - failed} of {len(report["checks"])} checks passed; {report["seconds"]:.0f} s')
    return 0 if passed else 1


if __name__ == '__main__':
    sys.exit(main())
