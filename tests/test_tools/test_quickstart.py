"""tools/quickstart.sh with a Python that writes what the tools write, and dies where it is told to."""
import os
import shutil
import signal
import subprocess

import pytest

DRAWING = ['demo.py', 'demo.py', 'visualize_bias.py']
TOOLS = ['make_synthetic_nuscenes.py', 'create_data.py', 'train_router.py', 'test_robustness.py', *DRAWING]
PYTHON = """#!/bin/bash
echo "$@" >> calls.txt
tool=$(basename "$1")
for out in "$@"; do :; done   # the last argument
work=work_dirs/quickstart
if [ -e "die_in_$tool" ]; then
    how=$(cat "die_in_$tool"); rm "die_in_$tool"
    case $how in script) kill -KILL $PPID; exit ;; *) echo "broken: $tool" >&2; exit 3 ;; esac
fi
case $tool in
    make_synthetic_nuscenes.py) mkdir -p data/nuscenes_synthetic/v1.0-mini ;;
    create_data.py) touch data/nuscenes_synthetic/nuscenes_{infos_train,infos_val}.pkl ;;
    train_router.py)
        echo "noise"; echo "looked at 64 of 128 samples, about 9 s left"
        echo "now - mmdet - INFO - Iter [10/20]	lr: 1.0e-04, eta: 0:00:07, time: 1.5, $(seq -s, 99)," \
            "loss_aqr: 0.25, grad_norm: 2.5"
        echo "$@" $$ >> $work/aqr/latest.pth ;;
    test_robustness.py)
        echo "noise"; echo "[1/7] clean"
        mkdir -p $work/robustness; echo "| the table |" > $work/robustness/robustness.md ;;
    demo.py) mkdir -p "$out"; touch "$out/frame_000_bev.png" ;;
    visualize_bias.py) mkdir -p "$out"; touch "$out/bev.png" "$out/report.html" ;;
esac
"""


@pytest.fixture
def project(repo_root, tmp_path):
    folder = tmp_path / 'my project'
    for name, text in {'tools/setup_env.sh': '#!/bin/sh\n', '.venv/bin/python': PYTHON, 'configs/base/a.py': 'a = 1',
                       'checkpoints/cmt_synthetic.pth': 'weights'}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    shutil.copy(repo_root / 'tools/quickstart.sh', folder / 'tools')
    return folder


def run(project, *arguments):
    environment = {key: value for key, value in os.environ.items() if key not in ('PYTHON', 'CMT_AQR_ACTIVE')}
    return subprocess.run([project / 'tools/quickstart.sh', *arguments], cwd='/', env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)


def calls(project):
    """Names of the tools run since the last call of this function."""
    log = project / 'calls.txt'
    names = [line.split()[0].removeprefix('tools/') for line in log.read_text().splitlines()]
    log.unlink()
    return names


def test_all_steps_once(project):
    result = run(project)
    assert result.returncode == 0, result.stdout
    train = [line for line in (project / 'calls.txt').read_text().splitlines() if 'train_router.py' in line]
    assert train == ['tools/train_router.py configs/cmt_aqr_plug_in_quickstart.py checkpoints/cmt_synthetic.pth '
                     '--work-dir work_dirs/quickstart/aqr']
    assert calls(project) == TOOLS
    assert '| the table |' in result.stdout and result.stdout.count('frame_000_bev.png') == 2
    assert 'pictures/router/report.html' in result.stdout
    assert '\nIter [10/20], eta: 0:00:07, loss_aqr: 0.25\n' in result.stdout
    assert 'looked at 64 of 128' in result.stdout
    assert '[1/7] clean' in result.stdout and 'noise' not in result.stdout
    again = run(project)
    assert calls(project) == ['test_robustness.py'] and again.stdout.count('done before') == 4
    assert '| the table |' in again.stdout


@pytest.mark.parametrize('tool', dict.fromkeys(TOOLS))
def test_an_error_stops_it_and_the_next_run_repeats_that_step(project, tool):
    (project / f'die_in_{tool}').write_text('error')
    result = run(project)
    assert result.returncode != 0 and f'broken: {tool}' in result.stdout and 'the table' not in result.stdout
    assert calls(project) == TOOLS[:TOOLS.index(tool) + 1]
    assert run(project).returncode == 0
    repeated = calls(project)
    assert repeated[0] == ('test_robustness.py' if tool in DRAWING else tool) and repeated[-len(DRAWING):] == DRAWING


@pytest.mark.parametrize('tool', dict.fromkeys(TOOLS))
def test_a_killed_script_goes_on(project, tool):
    (project / f'die_in_{tool}').write_text('script')
    assert run(project).returncode == -signal.SIGKILL
    assert calls(project) == TOOLS[:TOOLS.index(tool) + 1]
    result = run(project)
    assert result.returncode == 0 and '| the table |' in result.stdout
    assert calls(project)[-len(DRAWING):] == DRAWING


@pytest.mark.parametrize('changed', ['configs/base/a.py', 'checkpoints/cmt_synthetic.pth',
                                     'data/nuscenes_synthetic/nuscenes_infos_train.pkl'])
def test_another_baseline_config_or_data_makes_training_and_pictures_void(project, changed):
    first = run(project)
    checkpoint, old = project / 'work_dirs/quickstart/aqr/latest.pth', project / 'work_dirs/quickstart/aqr/epoch_9.pth'
    picture = project / 'work_dirs/quickstart/pictures/aqr/frame_000_bev.png'
    for number, tool in enumerate(['train_router.py', 'demo.py']):  # interrupted there
        picture.write_text('old')
        old.touch()
        (project / changed).write_text(f'another {number}')
        (project / f'die_in_{tool}').write_text('error')
        calls(project)
        assert run(project).returncode != 0 and calls(project)[0] == 'train_router.py' and not old.exists()
        assert run(project).returncode == 0
        assert calls(project) == ['train_router.py', 'test_robustness.py', *DRAWING][number:]
        assert len(checkpoint.read_text().splitlines()) == 1 and picture.read_text() == ''
        (project / 'calls.txt').touch()
    assert first.returncode == 0


def test_an_interrupted_training_goes_on(project):
    kept = project / 'work_dirs/quickstart/aqr/epoch_1.pth'
    (project / 'die_in_train_router.py').write_text('error')
    assert run(project).returncode != 0
    kept.touch()
    assert run(project).returncode == 0 and kept.exists()


def test_arguments(project):
    result = run(project, '--help')
    assert result.returncode == 0 and result.stdout.startswith('The whole job on synthetic data')
    assert run(project, 'fast').returncode == 2 and not (project / 'calls.txt').exists()
