import pytest
from mmdet3d.datasets import NuScenesDataset

from projects.mmdet3d_plugin.apis.test import check_arguments
from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset, FrameFolderDataset


class TestCheckArguments:
    """Only the classes matter: datasets without their files do."""

    @pytest.mark.parametrize('cls', [NuScenesDataset, CustomNuScenesDataset, FrameFolderDataset])
    def test_metric(self, cls):
        dataset = cls.__new__(cls)
        check_arguments(dataset, 'evaluate', {})
        check_arguments(dataset, 'evaluate', dict(metric='bbox'))
        check_arguments(dataset, 'evaluate', dict(metric=['bbox'], logger=None))
        for metric in ('box', ['bbox', 'segm'], []):
            with pytest.raises(ValueError, match=f"{cls.__name__}.evaluate: metric must be 'bbox', got"):
                check_arguments(dataset, 'evaluate', dict(metric=metric))

    def test_names(self):
        dataset = NuScenesDataset.__new__(NuScenesDataset)
        check_arguments(dataset, 'format_results', dict(jsonfile_prefix='a'))
        for method in ('evaluate', 'format_results'):
            with pytest.raises(ValueError, match=rf"NuScenesDataset.{method} does not take {{'prefix': 'a'}}"):
                check_arguments(dataset, method, dict(prefix='a'))
