"""The tutorial, command by command as it is written, in a copy of the checkout."""
import os
import re
import shutil
import subprocess
import sys

import cv2


def commands(text):
    """The bash blocks of a page, without those that build and activate the environment, which is there."""
    blocks = re.findall(r'```bash\n(.*?)```', text, re.DOTALL)
    assert blocks[:2] == ['tools/setup_env.sh\n', 'source .venv/bin/activate\n']
    return blocks[2:]


def copy_checkout(source, target):
    """What a clone has, and what is new in the checkout under test."""
    listed = subprocess.run(['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z'], cwd=source,
                            capture_output=True, text=True, check=True).stdout.split('\0')
    for name in filter(None, listed):
        if (source / name).is_file() and not name.startswith(('tests/', 'docs/figures/')):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def test_every_command(repo_root, tmp_path):
    copy_checkout(repo_root, tmp_path)
    environment = dict(os.environ, PATH=f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}', OMP_NUM_THREADS='1',
                       PYTHONWARNINGS='ignore')
    printed = ''
    for block in commands((repo_root / 'docs/tutorial.md').read_text()):
        done = subprocess.run(['bash', '-euo', 'pipefail', '-c', block], cwd=tmp_path, env=environment,
                              capture_output=True, text=True)
        printed += done.stdout
        assert done.returncode == 0, f'{block}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}'
    made = tmp_path / 'work_dirs/tutorial'
    page = cv2.imread(str(made / 'sample_0_page_1.png'))
    assert page is not None and page.shape[1] == 1500
    assert 'dust@3' in printed and (made / 'pictures/report.html').is_file()
    report = (made / 'pictures/report.html').read_text()
    assert 'weight_map=cautious' in report and 'by LiDAR alone' in report
    assert 'Every weight is 0.5' not in report
    assert (made / 'router/router.md').is_file()
    assert 'tensor([-1.5000, -1.5000, -0.6000,  0.0000,  0.0000])' in printed
    tested = (made / 'robustness_of_router/robustness.md').read_text()
    assert re.search(r'dust@3 +\| +off', tested) and re.search(r'dust@3 +\| +learned', tested)
