#!/usr/bin/env python
"""Make the small checkpoint to hand out from one that training wrote: tools/publish_checkpoint.py IN OUT [options]

It holds the weights alone, in half precision and without auxiliary heads, and says where they come from.
"""
import argparse
import os.path as osp

import command_line


def note(text):
    """argparse type: KEY=VALUE, the value as it stands."""
    key, equals, value = text.partition('=')
    if not (key and equals):
        raise argparse.ArgumentTypeError(f'expected KEY=VALUE, got {text!r}')
    return key, value


def parse_args():
    parser = command_line.new_parser(__doc__)
    parser.add_argument('source', metavar='IN', type=command_line.existing_file, help='checkpoint that training wrote')
    parser.add_argument('target', metavar='OUT', help='checkpoint to write; a part of its SHA-256 is added '
                        'to the name, as in small-1a2b3c4d.pth')
    parser.add_argument('--note', nargs='+', type=note, default=[], metavar='KEY=VALUE',
                        help='further entries of its meta data, such as command="tools/train.py CONFIG"')
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='unpickle arbitrary Python objects of IN, which can run code hidden in them: only for '
                        'files whose origin you trust')
    return parser.parse_args()


def main(args):
    from projects.mmdet3d_plugin.apis import publish_checkpoint
    path, meta = publish_checkpoint(args.source, args.target, dict(args.note), args.trust_checkpoint)
    for key, value in meta.items():
        print(f'{key}: {value}' if key != 'config' else f'{key}: {len(value)} characters')
    print(f'{path}: {osp.getsize(path) / 2 ** 20:.2f} MiB, was {osp.getsize(args.source) / 2 ** 20:.2f}')


if __name__ == '__main__':
    command_line.run(parse_args, main)
