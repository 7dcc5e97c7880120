"""A whole training step of the 800x320 ResNet-50 config, without AQR and with it."""
import copy
from operator import call

import torch

from benchmarks.harness import Comparison
from benchmarks.settings import Settings

from .scenes import AQR, CONFERRING, let_lean, published_detector, training_data


def build(settings):
    """Compare training steps; of the settings only the batch counts."""
    scale = Settings().scale  # of the 800x320 config
    data = training_data(scale, settings.batch)
    options = {name: AQR[name] for name in ('no AQR', 'AQR global')}
    models = {name: published_detector(scale, **own) for name, own in options.items()}
    for name, share in (('looks, none suspected', 0.0), ('looks, about half lean', 0.5)):
        models[name] = published_detector(scale, **CONFERRING)
        _let_lean(models[name], share, data)
    return Comparison({name: _step(model, data) for name, model in models.items()}, {'training step': call})


@torch.no_grad()
def _let_lean(model, share, data):
    """About this share of the queries, since batch statistics change from evaluation to training."""
    img_feats, pts_feats = model.eval().extract_feat(data['points'], data['img'], data['img_metas'])
    let_lean(model.train().pts_bbox_head, share, pts_feats[0], img_feats[0], data['img_metas'])


def _step(model, data):
    """Function that trains a model for one step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step():
        optimizer.zero_grad()
        model.train_step(copy.deepcopy(data), optimizer)['loss'].backward()
        optimizer.step()

    return step
