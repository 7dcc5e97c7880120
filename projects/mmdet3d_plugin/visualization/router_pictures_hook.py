"""Pictures of the router in TensorBoard, at every evaluation. Configs name this module in `custom_imports`."""
from mmcv import Config
from mmcv.runner import HOOKS, EvalHook, Hook, TensorboardLoggerHook, master_only

from ..apis.routing_snapshot import build_case_dataset, check_routes, take_snapshot
from ..datasets.sensor_failures import FailureCase
from ..hooks.bare_model import bare_model
from .figures import figure_pixels
from .routing_pictures import routing_cameras_figure, routing_figure


@HOOKS.register_module()
class RouterPicturesHook(Hook):
    """Draw some validation samples after every epoch that is evaluated, from above and in the images.

    The pictures are those of `tools/visualize_bias.py`, under ``router/sample_0_bev`` (all cases side by side) and
    ``router/sample_0_cameras_clean``; the first process draws them.

    Args:
        samples (Sequence[int]): indices of samples of ``data.val``.
        cases (Sequence[str]): sensor failures, see `FailureCase`; 'clean' comes first where it is among them.
        score_thr (float): least score of a detection that is drawn, in [0, 1].

    Raises:
        ValueError: no samples or cases, or a score out of range; before the run, without evaluation, without
            TensorboardLoggerHook, for a model without router, or for samples that do not exist.
    """

    def __init__(self, samples=(0, ), cases=('clean', ), score_thr=0.3):
        if not samples or not all(isinstance(index, int) and index >= 0 for index in samples):
            raise ValueError(f'samples must be indices >= 0, at least one, got {samples!r}')
        if not cases or isinstance(cases, str):
            raise ValueError(f'cases must be a list of sensor failures, at least one, got {cases!r}')
        if not 0 <= score_thr <= 1:
            raise ValueError(f'score_thr must lie in [0, 1], got {score_thr!r}')
        self.samples = samples
        self.cases = [FailureCase.parse(case) for case in cases]
        self.score_thr = score_thr

    @master_only
    def before_run(self, runner):
        for kind in (EvalHook, TensorboardLoggerHook):
            if not _hooks(runner, kind):
                raise ValueError(f'RouterPicturesHook needs {kind.__name__} beside it: training must evaluate and log '
                                 'to TensorBoard')
        cfg = Config.fromstring(runner.meta['config'], '.py')
        check_routes(cfg)
        cfg.data.test = cfg.data.val
        self._datasets = [build_case_dataset(cfg, case) for case in self.cases]
        count = len(self._datasets[0])
        if max(self.samples) >= count:
            raise ValueError(f'samples must be below {count}, the number of samples of data.val, got '
                             f'{list(self.samples)}')

    @master_only
    def after_train_epoch(self, runner):
        if not _hooks(runner, EvalHook)[0]._should_evaluate(runner):
            return
        model = bare_model(runner)
        model.eval()
        for index in self.samples:
            snapshots = [take_snapshot(model, dataset, index, score_thr=self.score_thr) for dataset in self._datasets]
            title = f'sample {index}, epoch {runner.epoch + 1}'
            _log(runner, f'router/sample_{index}_bev', routing_figure(snapshots, title=title))
            for snapshot in snapshots:
                _log(runner, f'router/sample_{index}_cameras_{snapshot.case.file_name}',
                     routing_cameras_figure(snapshot, title=f'{title}, {snapshot.case}'))


def _hooks(runner, kind):
    return [hook for hook in runner.hooks if isinstance(hook, kind)]


def _log(runner, tag, figure):
    picture = figure_pixels(figure)
    for logger in _hooks(runner, TensorboardLoggerHook):
        logger.writer.add_image(tag, picture, runner.iter, dataformats='HWC')
