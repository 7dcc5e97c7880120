"""A whole training step of the 800x320 ResNet-50 config, without AQR and with it."""
import copy
from operator import call

import torch

from benchmarks.harness import Comparison
from benchmarks.settings import Settings

from .scenes import AQR, CONFERRING, published_detector, training_data


def build(settings):
    """Compare training steps; of the settings only the batch counts."""
    scale = Settings().scale  # of the 800x320 config
    data = training_data(scale, settings.batch)
    options = {name: AQR[name] for name in ('no AQR', 'AQR global')}
    options['looks and stand-ins'] = CONFERRING
    return Comparison({name: _step(published_detector(scale, **own), data) for name, own in options.items()},
                      {'training step': call})


def _step(model, data):
    """Function that trains a model for one step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step():
        optimizer.zero_grad()
        model.train_step(copy.deepcopy(data), optimizer)['loss'].backward()
        optimizer.step()

    return step
