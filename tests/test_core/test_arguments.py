"""Checks of constructor arguments, by themselves and where the classes of core use them."""
import math

import pytest

from projects.mmdet3d_plugin.core.arguments import check_count, check_factor, check_factors, check_names, check_range
from projects.mmdet3d_plugin.core.bbox.coders.multi_task_bbox_coder import MultiTaskBBoxCoder

RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]


@pytest.mark.parametrize('check, values', [
    (check_count, [0, -1, 2.0, 1.5, True, None, '3', math.nan]),
    (check_factor, [-1, -1e-9, math.nan, math.inf, True, None, '1', [1]]),
    (lambda name, value: check_factors(name, value, 2),
     [[1.0], [1.0, -1.0], [0.0, 0.0], [math.nan, 1.0], [1.0, 2.0, 3.0]]),
    (check_range, [RANGE[:5], RANGE[3:] + RANGE[:3], [0.0] * 6, [math.nan] + RANGE[1:], [-math.inf] + RANGE[1:]]),
])
def test_errors_name_argument_and_value(check, values):
    for value in values:
        with pytest.raises(ValueError, match='^some_name must ') as caught:
            check('some_name', value)
        assert repr(value) in str(caught.value)


def test_valid_values_pass():
    assert check_count('n', 1) == 1 and check_count('n', 0, least=0) == 0
    assert check_factor('x', 0) == 0 and check_factor('x', 2.5) == 2.5
    assert check_factors('x', (0, 1.5), 2) == [0, 1.5] and check_range('x', tuple(RANGE)) == RANGE


def test_names():
    check_names(['a'], ['a', 'b'])
    with pytest.raises(TypeError, match="unexpected argument 'lenght'; did you mean 'length'"):
        check_names(['lenght'], ['length', 'width'])
    with pytest.raises(TypeError, match="'widht'; did you mean 'width'"):
        check_names(['widht'], ['length'], ['width'])
    with pytest.raises(TypeError, match=r"'zzz'; allowed: \['length'\]"):
        check_names(['zzz'], ['length'], ['width'])


@pytest.mark.parametrize('name, value', [
    ('max_num', 0), ('max_num', -3), ('max_num', 1.5), ('num_classes', 0), ('score_threshold', 1.0),
    ('score_threshold', math.nan), ('score_threshold', -0.1), ('score_threshold', '0.1'),
    ('post_center_range', RANGE[:4]),
    ('post_center_range', RANGE[3:] + RANGE[:3]), ('post_center_range', [math.nan] * 6), ('pc_range', [0.0] * 6)])
def test_a_coder_that_could_detect_nothing_is_refused(name, value):
    with pytest.raises(ValueError, match=f'{name} must'):
        MultiTaskBBoxCoder(**{**dict(pc_range=RANGE, post_center_range=RANGE), name: value})
