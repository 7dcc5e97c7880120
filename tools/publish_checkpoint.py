#!/usr/bin/env python
"""Make the small checkpoint to hand out from one that training wrote: tools/publish_checkpoint.py IN OUT [options]"""
import argparse
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
import projects.mmdet3d_plugin  # noqa: E402,F401  (before other mm imports, see its compat.py)
from projects.mmdet3d_plugin.apis import config as cli  # noqa: E402
from projects.mmdet3d_plugin.apis import publish_checkpoint  # noqa: E402


def note(text):
    """argparse type: KEY=VALUE, the value as it stands."""
    key, equals, value = text.partition('=')
    if not (key and equals):
        raise argparse.ArgumentTypeError(f'expected KEY=VALUE, got {text!r}')
    return key, value


def main():
    parser = argparse.ArgumentParser(description='Weights alone, in half precision, without auxiliary heads')
    parser.add_argument('source', metavar='IN', type=cli.existing_file, help='checkpoint that training wrote')
    parser.add_argument('target', metavar='OUT', help='checkpoint to write')
    parser.add_argument('--note', nargs='+', type=note, default=[], metavar='KEY=VALUE',
                        help='further entries of its meta data, such as command="tools/train.py CONFIG"')
    parser.add_argument('--trust-checkpoint', action='store_true', help='unpickle arbitrary Python objects of IN')
    args = parser.parse_args()

    meta = publish_checkpoint(args.source, args.target, dict(args.note), args.trust_checkpoint)
    for key, value in meta.items():
        print(f'{key}: {value}' if key != 'config' else f'{key}: {len(value)} characters')
    print(f'{args.target}: {osp.getsize(args.target) / 2 ** 20:.2f} MiB, was {osp.getsize(args.source) / 2 ** 20:.2f}')


if __name__ == '__main__':
    main()
