from types import SimpleNamespace

import pytest

from projects.mmdet3d_plugin.apis.class_names import check_same_classes, head_classes


def test_names_of_a_head_go_through_its_tasks():
    head = SimpleNamespace(class_names=[['car'], ['truck', 'bus']])
    assert head_classes(SimpleNamespace(pts_bbox_head=head)) == ['car', 'truck', 'bus']
    assert head_classes(SimpleNamespace(pts_bbox_head=object())) is head_classes(object()) is None


def test_same_classes():
    check_same_classes({})
    check_same_classes(dict(checkpoint=None, data=['car', 'bus'], head=('car', 'bus')))
    check_same_classes(dict(checkpoint='car', data=['car']))


@pytest.mark.parametrize('names, relation', [(['bus', 'car'], 'the same classes in another order'),
                                             (['car'], 'other classes'), (['car', 'van'], 'other classes')])
def test_differences_name_both_lists(names, relation):
    with pytest.raises(ValueError) as error:
        check_same_classes({'a.pth': None, 'data': ('car', 'bus'), 'head': ('car', 'bus'), 'b.pth': names})
    assert f"b.pth and data name {relation}" in str(error.value)
    assert f"b.pth has {names}, data has ['car', 'bus']" in str(error.value)
