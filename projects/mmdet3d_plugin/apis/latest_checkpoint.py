"""The checkpoint with which `--auto-resume` goes on."""
import os
import os.path as osp
import re

from mmcv.fileio import FileClient


def checkpoint_folder(cfg):
    """Folder in which mmcv's CheckpointHook keeps the checkpoints of a config.

    Args:
        cfg (mmcv.Config): with `work_dir`.
    """
    out_dir = (cfg.get('checkpoint_config') or {}).get('out_dir')
    if not out_dir or out_dir == cfg.work_dir:
        return cfg.work_dir
    return osp.join(out_dir, osp.basename(osp.abspath(cfg.work_dir)))


def find_checkpoint(cfg):
    """The newest checkpoint of an earlier run of a config.

    Args:
        cfg (mmcv.Config): with `work_dir`; `checkpoint_config` says where and under which names checkpoints lie.

    Returns:
        str | None: the file, None where there is none.

    Raises:
        ValueError: `latest.pth` leads to no file, or checkpoints do not lie in a folder.
    """
    folder = checkpoint_folder(cfg)
    if FileClient.parse_uri_prefix(folder) is not None:
        raise ValueError(f'auto_resume cannot search {folder} (checkpoint_config.out_dir): name the checkpoint with '
                         '--resume-from')
    latest = osp.join(folder, 'latest.pth')
    if osp.lexists(latest):
        if not osp.isfile(latest):
            raise ValueError(f'auto_resume: {latest} leads to {osp.realpath(latest)}, which is not there: name the '
                             'checkpoint with --resume-from, or delete the link to take the newest that is left')
        return latest
    template = (cfg.get('checkpoint_config') or {}).get('filename_tmpl', 'epoch_{}.pth')
    place = osp.join(folder, osp.dirname(template))
    pattern = re.compile(r'(\d+)'.join(map(re.escape, osp.basename(template).split('{}'))))
    matches = map(pattern.fullmatch, os.listdir(place) if osp.isdir(place) else [])
    numbered = {int(match[1]): match[0] for match in matches if match and pattern.groups}
    return osp.join(place, numbered[max(numbered)]) if numbered else None
