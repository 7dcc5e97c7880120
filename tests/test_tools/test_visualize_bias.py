import fcntl
import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import time

import cv2
import numpy as np
import pytest
import torch
from mmdet3d.models import build_model

from projects.mmdet3d_plugin.apis import load_config
from projects.mmdet3d_plugin.apis.test import build_trained_model

from ..test_visualization.test_html_report import Page

COMPOSITE = 'view_drop:CAM_FRONT,CAM_FRONT_LEFT,CAM_FRONT_RIGHT+fov:90'
REAL_CONFIG = 'configs/cmt_aqr_real_frame.py'
SMALL = {
    'model.img_backbone.base_channels': 8, 'model.img_neck.in_channels': [32, 64], 'model.pts_bbox_head.num_query': 30,
    'model.pts_bbox_head.transformer.decoder.num_layers': 1
}


@pytest.fixture(scope='module')
def routed(repo_root, tmp_path_factory):
    """Checkpoint of the published baseline with a router of random weights."""
    model = build_trained_model(load_config(repo_root / 'configs/cmt_aqr_synthetic.py'),
                                str(repo_root / 'checkpoints/cmt_synthetic.pth'))
    torch.manual_seed(0)
    torch.nn.init.normal_(model.pts_bbox_head.aqr_router.mlp[-1].weight, std=0.3)
    path = tmp_path_factory.mktemp('routed') / 'routed.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(CLASSES=model.CLASSES)), path)
    return path


@pytest.fixture(scope='module')
def visualize(run_tool, repo_root, synthetic_nuscenes):
    """Run the tool on the generated set; returns what it printed."""

    def run(checkpoint, *arguments, config='cmt_aqr_synthetic.py', code=0):
        data = [f'data.test.data_root={synthetic_nuscenes}/',
                f'data.test.ann_file={synthetic_nuscenes / "nuscenes_infos_val.pkl"}']
        return run_tool('visualize_bias.py', repo_root / 'configs' / config, checkpoint, *arguments, '--cfg-options',
                        *data, cwd=repo_root, code=code)

    return run


@pytest.fixture(scope='module')
def report(visualize, routed, tmp_path_factory):
    """Folder with a report on a sample, clean and under a failure of LiDAR and cameras; a recording where rerun is."""
    out = tmp_path_factory.mktemp('report')
    recording = ['--rrd', out.with_suffix('.rrd')] if importlib.util.find_spec('rerun') else []
    visualize(routed, '--sample', 2, '--case', COMPOSITE, '--queries', 7, '--out', out, *recording)
    return out


def as_wide_as_the_page(picture):
    """Shrunk to 1500 pixels if it is wider."""
    height, width = picture.shape[:2]
    if width <= 1500:
        return picture
    return cv2.resize(picture, (1500, round(height * 1500 / width)), interpolation=cv2.INTER_AREA)


def test_pictures_and_report(report, routed, synthetic_nuscenes):
    failed = COMPOSITE.replace(':', '_').replace(',', '-')
    pictures = 'bev', 'cameras', 'query_7'
    files = [f'sample_2_{case}_{picture}.png' for case in ('clean', failed) for picture in pictures]
    assert sorted(os.listdir(report)) == sorted([*files, 'sample_2_histograms.png', 'report.html'])
    page = Page((report / 'report.html').read_text(encoding='utf-8'))
    embedded = [cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) for _, content in page.images]
    for picture, file in zip(embedded, [*files, 'sample_2_histograms.png'], strict=True):
        drawn = as_wide_as_the_page(cv2.imread(str(report / file)))
        assert picture.shape == drawn.shape and np.abs(picture.astype(int) - drawn).mean() < 4
    assert len((report / 'report.html').read_bytes()) < 3e6
    assert page.links == page.ids and len(page.ids) == 5  # how to read it, the sample, its two cases, its histograms
    assert len({alt for alt, _ in page.images}) == len(page.images)
    tokens = [info['token'] for info in infos(synthetic_nuscenes)]
    for text in ('cmt_aqr_synthetic.py', str(routed), f'2: token {tokens[2]}', f'clean; {COMPOSITE}',
                 'bias_strength=1.0', 'tools/visualize_bias.py', f'--sample 2 --case {COMPOSITE}',
                 'CAM_FRONT, CAM_FRONT_RIGHT, CAM_FRONT_LEFT', 'LiDAR lost', 'cameras lost',
                 'green dots trust LiDAR more, purple ones the cameras'):
        assert text in ' '.join(page.text.split()), text
    assert 'Every weight is 0.5' not in page.text
    for file in files:
        image = cv2.imread(str(report / file))
        assert min(image.shape[:2]) > 600 and (image != 255).any(axis=2).mean() > 0.02


def test_the_recording_beside_it(report):
    """Both cases, at the number of the sample."""
    rerun = pytest.importorskip('rerun', reason='rerun-sdk is not installed')
    dataframe = pytest.importorskip('rerun.dataframe')
    recording = dataframe.load_recording(str(report.with_suffix('.rrd')))
    counts = []
    for case in ('clean', COMPOSITE):
        place = rerun.new_entity_path([case, 'points'])
        table = recording.view(index='frame', contents=place).select().read_all()
        assert table['frame'].to_pylist() == [2]
        counts.append(len(table[f'{place}:Position3D'].to_pylist()[0]))
    assert 100 < counts[1] < 0.7 * counts[0]


def infos(folder):
    """Info records of the validation samples in the order of the data set, by time."""
    content = pickle.loads((folder / 'nuscenes_infos_val.pkl').read_bytes())
    return sorted(content['infos'], key=lambda info: info['timestamp'])


def test_a_neutral_router_by_token(visualize, repo_root, synthetic_nuscenes, tmp_path):
    """The published baseline has no router: weights are 0.5, and a hint says so."""
    token = infos(synthetic_nuscenes)[3]['token']
    out = tmp_path / 'new' / 'folder'
    visualize(repo_root / 'checkpoints/cmt_synthetic.pth', '--sample', token, '--out', out)
    page = Page((out / 'report.html').read_text(encoding='utf-8'))
    assert 'Every weight is 0.5: the router is neutral' in page.text and f'3: token {token}' in page.text
    assert len(page.images) == 6  # BEV, cameras, three queries, histograms


def test_a_real_frame(run_tool, repo_root, real_frame, tmp_path):
    """A failure of objects, whose boxes come from the frame; a small model without training."""
    model = build_model(load_config(repo_root / REAL_CONFIG, SMALL).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    options = [f'{key}={str(value).replace(" ", "")}' for key, value in SMALL.items()]
    out = tmp_path / 'out'
    run_tool('visualize_bias.py', repo_root / REAL_CONFIG, tmp_path / 'weights.pth', '--frame', real_frame, '--case',
             'object_failure:1', '--queries', 0, '--score-thr', 0.9, '--out', out, '--cfg-options', *options,
             cwd=repo_root)
    assert sorted(os.listdir(out)) == sorted([
        'report.html', 'frame_0_histograms.png',
        *(f'frame_0_{case}_{picture}.png' for case in ('clean', 'object_failure_1') for picture in
          ('bev', 'cameras', 'query_0'))])
    text = Page((out / 'report.html').read_text(encoding='utf-8')).text
    assert f'frames of {real_frame}' in text and '68 boxes of the ground truth' not in text
    assert re.search(r'object_failure:1.*LiDAR', text, re.DOTALL)


@pytest.mark.parametrize('arguments, message', [
    (['--out', 'o'], 'one of the arguments --sample --frame is required'),
    (['--sample', '0', '--frame', '.', '--out', 'o'], 'argument --frame: not allowed with argument --sample'),
    (['--frame', 'nowhere', '--out', 'o'], 'argument --frame: no such folder: nowhere'),
    (['--sample', '0', '--out', 'o', '--case', 'rain'], "argument --case: case 'rain': 'rain' is no failure"),
    (['--sample', '0', '--out', 'o', '--case', 'fov:60', 'fov:60'],
     'argument --case: must differ, got clean, fov:60, fov:60'),
    (['--sample', '0', '--out', 'o', '--score-thr', '2'], 'argument --score-thr: must be in [0, 1], got 2.0'),
    (['--sample', '4', '--out', 'o'], "no sample '4' in the test data: allowed are indices 0 to 3 and tokens"),
    (['--sample', 'unknown', '--out', 'o'], "no sample 'unknown' in the test data"),
    (['--sample', '0', '--out', 'o', '--queries', '200'], 'queries must be different numbers from 0 to 199, got [200]'),
    (['--sample', '0', '--out', 'o', '--layer', '3'], 'layer must lie in [-3, 2], got 3'),
])
def test_mistakes(visualize, routed, repo_root, arguments, message):
    assert message in visualize(routed, *arguments, code=None)
    assert not (repo_root / 'o').exists()


def test_a_model_without_router(visualize, repo_root):
    text = visualize(repo_root / 'checkpoints/cmt_synthetic.pth', '--sample', 0, '--out', 'o',
                     config='cmt_synthetic.py', code=1)
    assert 'the model has no router to look at: model.pts_bbox_head.enable_aqr is False. Take a config with AQR' in text
    assert not (repo_root / 'o').exists()


class Browser:
    """Headless Chromium, driven over the pipe of its DevTools protocol: no port, no driver, no script in the page."""

    def __init__(self, program, profile):
        command_read, command_write = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in os.pipe())
        answer_read, answer_write = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in os.pipe())
        self.process = subprocess.Popen(
            ['bash', '-c', f'exec "$@" 3<&{command_read} 4>&{answer_write}', 'bash', program, '--headless=new',
             '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
             '--disable-background-networking', f'--user-data-dir={profile}', '--remote-debugging-pipe', 'about:blank'],
            pass_fds=(command_read, answer_write), stderr=subprocess.DEVNULL)
        os.close(command_read), os.close(answer_write)
        self.commands, self.answers = os.fdopen(command_write, 'wb'), os.fdopen(answer_read, 'rb')
        self.events, self.number, self.session = [], 0, None
        page, = (target for target in self.call('Target.getTargets')['targetInfos'] if target['type'] == 'page')
        self.session = self.call('Target.attachToTarget', targetId=page['targetId'], flatten=True)['sessionId']

    def call(self, method, **parameters):
        """Result of a command; what happens meanwhile is kept in `events`."""
        self.number += 1
        message = dict(id=self.number, method=method, params=parameters)
        if self.session is not None:
            message['sessionId'] = self.session
        self.commands.write(json.dumps(message).encode() + b'\0')
        self.commands.flush()
        while (answer := self._next()).get('id') != self.number:
            self.events.append(answer)
        assert 'error' not in answer, answer
        return answer['result']

    def wait(self, event):
        while not any(seen['method'] == event for seen in self.events):
            self.events.append(self._next())

    def _next(self):
        content = bytearray()
        while (byte := self.answers.read(1)) != b'\0':
            assert byte, 'the browser has ended'
            content += byte
        return json.loads(content)

    def close(self):
        self.commands.close(), self.answers.close()
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def browser(tmp_path):
    program = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if program is None:
        pytest.skip('no browser: chromium is not installed (apt-get install chromium)')
    browser = Browser(program, tmp_path / 'profile')
    yield browser
    browser.close()


def test_the_report_opens_in_a_browser_without_network(report, browser):
    for domain in ('Page', 'Network', 'Log', 'Runtime'):
        browser.call(f'{domain}.enable')
    browser.call('Page.navigate', url=(report / 'report.html').as_uri())
    browser.wait('Page.loadEventFired')
    time.sleep(0.5)
    found = browser.call('Runtime.evaluate', returnByValue=True, expression='''({
        sizes: [...document.images].map(image => [image.naturalWidth, image.naturalHeight, image.complete]),
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        mode: document.compatMode, title: document.title})''')['result']['value']
    pictures = [as_wide_as_the_page(cv2.imread(str(report / file))).shape for file in os.listdir(report)
                if file.endswith('.png')]
    assert sorted(found['sizes']) == sorted([width, height, True] for height, width, _ in pictures)
    assert found['overflow'] <= 0 and found['mode'] == 'CSS1Compat' and 'router' in found['title']
    requests = [event['params']['request']['url'] for event in browser.events
                if event['method'] == 'Network.requestWillBeSent']
    assert [url for url in requests if not url.startswith('data:')] == [(report / 'report.html').as_uri()]
    assert not [event for event in browser.events if event['method'] in (
        'Log.entryAdded', 'Runtime.consoleAPICalled', 'Runtime.exceptionThrown')]
