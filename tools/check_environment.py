#!/usr/bin/env python
"""Check the Python environment that runs this, as tools/setup_env.sh does before it calls an environment ready:

    tools/check_environment.py                           ends with 1 where something is missing or does not compute
    tools/check_environment.py --forget-half-installed   makes pip install anew what it was killed at

pip writes the files of a package first and the list of them last, and then takes a package that it was killed at for
installed. The check asks that every pinned package has all of its files, that the plugin imports, and that what depends
on the torch at hand computes: operators of mmcv and torchvision, volumes of spconv, a backbone with `with_cp=True`.
"""
import csv
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from command_line import ROOT, new_parser


def half_installed(folder):
    """Records of packages whose installation or removal was cut short.

    Args:
        folder (Path): site-packages.

    Returns:
        list[Path]: their `.dist-info` folders.
    """
    return [info for info in sorted(folder.glob('*.dist-info')) if not _is_whole(info)]


def _is_whole(info):
    record = info / 'RECORD'
    if not record.is_file():
        return False
    with open(record, encoding='utf-8', newline='') as lines:
        names = {row[0] for row in csv.reader(lines) if row}
    # A wheel has a RECORD of its own, which pip replaces at the end by one that names the installer, too.
    return f'{info.name}/INSTALLER' in names and all(
        (info.parent / name).exists() for name in names if not name.endswith('.pyc'))


def forget(folder):
    """Remove the records of half-installed packages; pip writes over what else is there of them.

    Returns:
        list[Path]: see `half_installed`.
    """
    halves = half_installed(folder)
    for info in halves:
        shutil.rmtree(info)
    return halves


def pinned_names():
    """Names of the packages in requirements.txt, in the spelling that compares."""
    pins = re.findall(r'^([\w.-]+)[=<]', (ROOT / 'requirements.txt').read_text(), re.MULTILINE)
    return {_comparable(name) for name in pins}


def _comparable(name):
    return re.sub(r'[-_.]+', '-', name).lower()


def compute():
    """Use what an unfit torch breaks.

    Raises:
        ImportError, RuntimeError: and whatever else torch, mmcv or the plugin raise where they do not fit together.
    """
    import projects.mmdet3d_plugin  # noqa: F401, I001  (must be the first of all mm imports, see its compat.py)
    import spconv.pytorch
    import torch
    import torchvision
    from mmcv.ops import nms
    from mmdet.models import build_backbone
    boxes = torch.tensor([[0., 0, 4, 4], [0, 0, 4, 3], [5, 5, 9, 9]])
    scores = torch.tensor([0.7, 0.9, 0.8])
    kept = [nms(boxes, scores, 0.5)[1].tolist(), torchvision.ops.nms(boxes, scores, 0.5).tolist()]
    if kept != [[1, 2], [1, 2]]:
        raise RuntimeError(f'nms of mmcv and torchvision keep {kept} instead of [1, 2]')
    cells = torch.eye(3, 4, dtype=torch.int32)  # batch, z, y, x: one of them is 1
    volume = spconv.pytorch.SparseConvTensor(scores[:, None], cells, [2, 2, 1], 2).dense()[:, 0]
    if [volume[tuple(cell)] for cell in cells.tolist()] != scores.tolist() or volume.count_nonzero() != 3:
        raise RuntimeError(f'spconv spreads {scores.tolist()} over {cells.tolist()} as {volume.tolist()}')
    backbone = build_backbone(dict(type='ResNet', depth=18, with_cp=True))
    backbone(torch.rand(2, 3, 32, 32))[-1].sum().backward()
    if backbone.conv1.weight.grad is None:
        raise RuntimeError('the first layer of a backbone with with_cp=True gets no gradient')


def parse_args():
    parser = new_parser(__doc__)
    parser.add_argument('--forget-half-installed', action='store_true',
                        help='remove the records of packages that are half installed, and check nothing else')
    return parser.parse_args()


def main():
    args = parse_args()
    folder = Path(sysconfig.get_path('purelib'))
    if args.forget_half_installed:
        for info in forget(folder):
            print(f'{info.stem} was half installed')
        return
    halves = [info.stem for info in half_installed(folder) if _comparable(info.stem.split('-')[0]) in pinned_names()]
    if halves:
        sys.exit(f'half installed: {", ".join(halves)}; to repair one: pip install --force-reinstall --no-deps NAME')
    compute()


if __name__ == '__main__':
    main()
