"""Random cases for tests of the numerical core, with the extremes in them. The tests of the rooms draw them, too."""
import numpy as np
import torch
from hypothesis import strategies as st

from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias

HEADS, DIMS = 2, 8
GRID = (5, 6, 7)  # of sparse voxels: z, y, x


@st.composite
def biases(draw, local=None):
    """Random biases with the extremes in it: alpha 10, all suppressed, one token in a segment, unseen queries, border
    windows.
    """
    local = draw(st.booleans()) if local is None else local
    batch, num_query = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 5, 33]))
    shapes = tuple(draw(st.lists(st.tuples(st.integers(0 if local else 1, 9), st.integers(1, 9)), min_size=1,
                                 max_size=4)))
    if not sum(h * w for h, w in shapes):
        shapes = ((1, 1), *shapes[1:])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    heads = draw(st.sampled_from([(), (HEADS, )]))
    shape = (batch, *heads, num_query, len(shapes))
    kind = draw(st.sampled_from(['random', 'suppressed', 'extreme', 'neutral']))
    values = {'random': torch.randn(shape, generator=generator, dtype=torch.float64) * 5,
              'suppressed': torch.full(shape, -10.0, dtype=torch.float64),
              'extreme': torch.randint(2, shape, generator=generator).double() * 20 - 10,
              'neutral': torch.zeros(shape, dtype=torch.float64)}[kind]
    if not local:
        return AttentionBias(values, shapes), generator
    seen = torch.rand(batch, num_query, len(shapes), generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    cells = torch.stack([torch.stack([torch.randint(max(h, 1), (batch, num_query), generator=generator),
                                      torch.randint(w, (batch, num_query), generator=generator)], dim=-1)
                         for h, w in shapes], dim=2)
    seen &= torch.tensor([h > 0 for h, _ in shapes])
    windows = tuple(draw(st.sampled_from([1, 3, 5, 15])) for _ in shapes)
    return AttentionBias(values, shapes, torch.where(seen.unsqueeze(-1), cells, -torch.ones_like(cells)), seen,
                         windows), generator


def tensors(bias, generator, dtype=torch.float64):
    batch, num_query, num_tokens = bias.values.shape[0], bias.values.shape[-2], bias.num_tokens
    return [torch.randn(batch, HEADS, n, DIMS, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
            for n in (num_query, num_tokens, num_tokens)]


def with_values(bias, values):
    return AttentionBias(values, bias.shapes, bias.cells, bias.seen, bias.windows)


@st.composite
def routed_queries(draw):
    size = st.integers(1, 6)
    batch, num_query = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    bev_shape, view_shape = (draw(size), draw(size)), (draw(st.integers(1, 3)), draw(size), draw(size))
    weight = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]))
    weights = [torch.tensor(draw(st.lists(weight, min_size=batch * num_query, max_size=batch * num_query)),
                            dtype=torch.float64).view(batch, num_query) for _ in range(2)]
    index = st.integers(-1, bev_shape[0] * bev_shape[1] - 1)
    pts_idx = torch.tensor([[draw(index) for _ in range(num_query)] for _ in range(batch)])
    seen = torch.tensor(draw(st.lists(st.booleans(), min_size=batch * num_query * view_shape[0],
                                      max_size=batch * num_query * view_shape[0]))).view(
                                          batch, num_query, view_shape[0])
    cells = torch.tensor([[draw(st.integers(0, view_shape[1] - 1)), draw(st.integers(0, view_shape[2] - 1))]
                          for _ in range(seen.numel())]).view(*seen.shape, 2)
    cells[~seen] = -1
    windows = dict(lidar=draw(st.sampled_from([1, 3, 5, 7, 15])), camera=draw(st.sampled_from([1, 3, 5, 7, 15])))
    return (weights, pts_idx, cells, seen, bev_shape, view_shape, draw(st.sampled_from([0.0, 1.0, 3.0, 5.0, 10.0])),
            windows)


def voxels(count, channels, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(batch * 5 * 6 * 7, generator=generator)[:count]
    coors = torch.stack([cells // 210, cells // 42 % 5, cells // 7 % 6, cells % 7], dim=1).int()
    return torch.randn(len(coors), channels, generator=generator), coors


def ground_truth(counts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    boxes = [torch.cat([torch.rand(n, 3, generator=generator) * 2 - 1, torch.rand(n, 6, generator=generator) + 0.5],
                       dim=1) for n in counts]
    return boxes, [torch.arange(n) % 4 for n in counts]


@st.composite
def failures(draw):
    """Records of failures with places, in a scene that was turned, scaled, flipped and shifted since."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31 - 1)))
    count, angle, scale = draw(st.integers(0, 3)), rng.uniform(-3, 3), rng.uniform(0.6, 1.6)
    motion = np.eye(4)
    motion[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    motion[:3, :3] = np.diag([rng.choice([-1, 1]), rng.choice([-1, 1]), 1]) @ motion[:3, :3] * scale
    motion[:3, 3] = rng.uniform(-3, 3, 3)
    boxes = np.concatenate([rng.uniform(-8, 8, (count, 3)), rng.uniform(0.3, 6, (count, 3)),
                            rng.uniform(-4, 4, (count, 1))], axis=1)
    return FailureRecord('case', lidar_everywhere=draw(st.sampled_from([False, False, False, True])),
                         field_of_view=draw(st.sampled_from([None, 30.0, 90.0, 150.0])), lost_boxes=boxes,
                         views_lost=draw(st.sampled_from([None, rng.random(3) < 0.6])),
                         is_graded=draw(st.booleans())).moved(motion)
