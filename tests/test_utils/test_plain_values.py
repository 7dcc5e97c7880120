"""Plain Python values of nested containers."""
import json

import numpy as np
from mmcv import ConfigDict

from projects.mmdet3d_plugin.utils.plain_values import plain_values


def test_numpy_and_config_sections_become_plain():
    given = ConfigDict(a=np.float32(0.5), b=[np.arange(2), (np.int64(3), 'x')], c=dict(d=None))
    found = plain_values(given)
    assert found == dict(a=0.5, b=[[0, 1], (3, 'x')], c=dict(d=None))
    assert type(found) is dict and type(found['a']) is float and type(found['b'][1]) is tuple
    json.dumps(found)
