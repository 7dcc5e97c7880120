"""CustomFp16OptimizerHook in real runs: fp32 on CPU, fp16 with switches and a resumable loss scaler on CUDA."""
import copy
import logging

import pytest
import torch
from mmcv.parallel import MMDataParallel, MMDistributedDataParallel
from mmcv.runner import EpochBasedRunner, auto_fp16
from torch import nn
from torch.utils.data import DataLoader

from projects.mmdet3d_plugin.hooks.fp16_optimizer_hook import CustomFp16OptimizerHook

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


class Half(nn.Module):
    """A layer that runs in fp16 where its flag says so, and remembers which type came in."""

    def __init__(self):
        super().__init__()
        self.fp16_enabled = False
        self.layer = nn.Linear(4, 4)

    @auto_fp16()
    def forward(self, x):
        self.seen = x.dtype
        return self.layer(x)


class Model(nn.Module):

    def __init__(self):
        super().__init__()
        self.fp16_enabled = False
        self.encoder = nn.ModuleDict(dict(inner=Half()))
        self.head = Half()

    def forward(self, x):
        return self.head(self.encoder['inner'](x).float()).float()

    def train_step(self, data, optimizer):
        return dict(loss=self(data).square().mean(), log_vars={}, num_samples=len(data))

    def flags(self):
        return {name: module.fp16_enabled for name, module in self.named_modules() if hasattr(module, 'fp16_enabled')}


def run(model, tmp_path, optimizer_config, epochs=1, resume_from=None):
    """Train for three iterations an epoch and return the runner."""
    wrapped = MMDataParallel(model, device_ids=[0] if next(model.parameters()).is_cuda else [-1])
    runner = EpochBasedRunner(
        wrapped, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), work_dir=str(tmp_path),
        logger=logging.getLogger('test'), meta={}, max_epochs=epochs)
    runner.register_training_hooks(dict(policy='fixed'), optimizer_config, dict(interval=1))
    if resume_from is not None:
        runner.resume(resume_from)
    data = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    runner.run([DataLoader(data, batch_size=4)], [('train', 1)])
    return runner


def custom(**kwargs):
    return dict(type='CustomFp16OptimizerHook', loss_scale='dynamic', grad_clip=dict(max_norm=0.5), **kwargs)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def test_cpu_trains_in_fp32_and_says_so_once(model, tmp_path, caplog):
    reference = copy.deepcopy(model)
    start = copy.deepcopy(model.state_dict())
    with caplog.at_level(logging.INFO, 'test'):
        runner = run(model, tmp_path, custom(custom_fp16={'head': False}))
    run(reference, tmp_path, dict(grad_clip=dict(max_norm=0.5)))     # mmcv's fp32 optimizer hook
    for name, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
        assert not torch.equal(start[name], value)
    assert not any(model.flags().values())
    assert model.head.seen == torch.float32
    assert [record.levelname for record in caplog.records if 'training in fp32' in record.message] == ['WARNING']
    assert 'grad_norm' in runner.log_buffer.val_history


def test_cpu_checkpoint_holds_no_scaler_state(model, tmp_path):
    """An empty state, as a disabled GradScaler returns it, could not be loaded on CUDA."""
    run(model, tmp_path, custom())
    assert 'fp16' not in torch.load(tmp_path / 'epoch_1.pth', weights_only=True)['meta']


def test_cpu_resumes_and_passes_on_a_scaler_state(model, tmp_path):
    run(model, tmp_path, custom())
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    checkpoint['meta']['fp16'] = dict(loss_scaler=dict(scale=1024.0))
    torch.save(checkpoint, tmp_path / 'from_cuda.pth')
    runner = run(model, tmp_path, custom(), epochs=2, resume_from=str(tmp_path / 'from_cuda.pth'))
    assert runner.epoch == 2
    assert torch.load(tmp_path / 'epoch_2.pth', weights_only=True)['meta']['fp16'] == checkpoint['meta']['fp16']


@pytest.mark.parametrize('wrapper', [None, MMDataParallel, MMDistributedDataParallel])
def test_switches_where_fp16_is_available(model, wrapper):
    """Parameters on the meta device stand for an accelerator: flags are set before anything is computed."""
    model.to('meta')
    wrapped = model
    if wrapper is not None:
        wrapped = wrapper.__new__(wrapper)       # their constructors ask for devices or process groups
        nn.Module.__init__(wrapped)
        wrapped.module = model
    runner = type('Runner', (), dict(model=wrapped, meta={}, logger=logging.getLogger('test')))
    CustomFp16OptimizerHook(custom_fp16={'head': False, 'encoder.inner': False}).before_run(runner)
    assert model.flags() == {'': True, 'encoder.inner': False, 'head': False}
    CustomFp16OptimizerHook(custom_fp16={'encoder.inner': True}).before_run(runner)
    assert model.flags() == {'': True, 'encoder.inner': True, 'head': True}


@pytest.mark.parametrize('name, message', [
    ('heed', r"'heed'.* Model has no submodule 'heed'; it has \['encoder', 'head'\]"),
    ('encoder.outer', r"'encoder.outer'.* encoder has no submodule 'outer'; it has \['inner'\]"),
    ('', r"has no submodule ''"),
])
def test_unknown_submodule(model, tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        run(model, tmp_path, custom(custom_fp16={name: False}))


@pytest.mark.parametrize('custom_fp16', [['head'], {'head': 0}, {'head': None}])
def test_bad_switches(custom_fp16):
    with pytest.raises(TypeError, match='custom_fp16 must map'):
        CustomFp16OptimizerHook(custom_fp16=custom_fp16)


@NEEDS_CUDA
def test_cuda_trains_in_fp16_and_resumes_the_scaler(model, tmp_path):
    model.cuda()
    config = custom(custom_fp16={'head': False})
    config['loss_scale'] = dict(init_scale=1024.0, growth_interval=2)
    run(model, tmp_path, config)
    assert model.encoder['inner'].seen == torch.float16 and model.head.seen == torch.float32
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)['meta']['fp16']['loss_scaler']
    assert saved['scale'] == 2048.0 and saved['_growth_tracker'] == 1

    config['loss_scale'] = dict(init_scale=4.0, growth_interval=2)
    runner = run(model, tmp_path, config, epochs=2, resume_from=str(tmp_path / 'epoch_1.pth'))
    assert runner.meta['fp16']['loss_scaler']['scale'] == 8192.0     # went on from 2048 and 1 step, not from 4
