"""GridMask against a loop that draws the same numbers in the same order."""
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from projects.mmdet3d_plugin.models.utils.grid_mask import GridMask


def oracle(x, use_h, use_w, rotate, offset, ratio, mode, prob):
    """The published formula, stripe by stripe."""
    if np.random.rand() > prob:
        return x
    height, width = x.shape[-2:]
    big_height, big_width = int(1.5 * height), int(1.5 * width)
    period = np.random.randint(2, height)
    thickness = min(max(int(period * ratio + 0.5), 1), period - 1)
    mask = np.ones((big_height, big_width), np.uint8)
    first_row, first_column = np.random.randint(period), np.random.randint(period)
    if use_h:
        for i in range(big_height // period):
            mask[i * period + first_row:i * period + first_row + thickness] = 0
    if use_w:
        for i in range(big_width // period):
            mask[:, i * period + first_column:i * period + first_column + thickness] = 0
    mask = np.asarray(Image.fromarray(mask).rotate(np.random.randint(rotate)))
    top, left = (big_height - height) // 2, (big_width - width) // 2
    mask = mask[top:top + height, left:left + width]
    if mode == 1:
        mask = 1 - mask
    result = x.clone()
    noise = 2 * (np.random.rand(height, width) - 0.5) if offset else np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            if not mask[row, column]:
                result[..., row, column] = float(noise[row, column])
    return result


@given(
    seed=st.integers(0, 2**31), height=st.integers(3, 24), width=st.integers(1, 24), use_h=st.booleans(),
    use_w=st.booleans(), rotate=st.sampled_from([1, 2, 45, 360]), offset=st.booleans(),
    ratio=st.floats(0, 1), mode=st.sampled_from([0, 1]), prob=st.sampled_from([0.0, 0.7, 1.0]))
def test_matches_oracle(seed, height, width, **options):
    x = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed)) + 1
    np.random.seed(seed)
    expected = oracle(x, **options)
    next_draw = np.random.rand()
    np.random.seed(seed)
    ours = GridMask(**options)(x)
    assert np.random.rand() == next_draw        # no draw more or less
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_evaluation_is_identity_and_draws_nothing():
    x = torch.rand(1, 3, 8, 8)
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    assert GridMask(True, True).eval()(x) is x
    assert np.array_equal(np.random.get_state()[1], state)
    assert np.random.get_state()[2] == 624


def test_published_settings_blank_about_a_quarter():
    """Mode 1 keeps the union of the stripes, half of the rows and half of the columns."""
    np.random.seed(0)
    mask = GridMask(True, True, rotate=1, offset=False, ratio=0.5, mode=1, prob=1.0)
    kept = np.mean([mask(torch.ones(1, 1, 64, 96)).mean().item() for _ in range(300)])
    assert 0.7 < kept < 0.79


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('offset', [True, False])
def test_dtype_follows_the_images(dtype, offset):
    np.random.seed(0)
    assert GridMask(True, True, offset=offset)(torch.ones(1, 3, 16, 16, dtype=dtype)).dtype == dtype


def test_gradient_flows_where_pixels_stay():
    np.random.seed(1)
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    out = GridMask(True, True)(x)
    out.sum().backward()
    assert torch.equal(x.grad, (out != 0).to(x))


@pytest.mark.parametrize('options, message', [
    (dict(rotate=0), 'rotate .*>= 1, got 0'), (dict(rotate=1.5), 'rotate'),
    (dict(mode=2), 'mode must be 0 or 1, got 2'),
    (dict(ratio=1.1), r'ratio must lie in \[0, 1\]'), (dict(prob=-0.1), r'prob must lie in \[0, 1\]'),
])
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        GridMask(True, True, **options)


def test_image_too_small():
    with pytest.raises(ValueError, match=r'at least 3 rows, got shape \(1, 3, 2, 9\)'):
        GridMask(True, True)(torch.ones(1, 3, 2, 9))
