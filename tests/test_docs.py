"""README and docs against the repository: links, files, options of tools, headings, limits; cheap commands run."""
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('checkpoints/*.md')])
SCRIPTS = sorted([*ROOT.glob('tools/*.py'), ROOT / 'benchmarks/run.py', ROOT / 'benchmarks/gpu_check.py'])


def name(path):
    return str(path.relative_to(ROOT))


def anchors(path):
    """Anchors that GitHub makes of a page's headings."""
    headings = re.findall(r'^#+ +(.+)$', path.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def commands(path):
    """Commands in the bash blocks of a page as lists of words, comments left out and continued lines joined."""
    for block in re.findall(r'```bash\n(.*?)```', path.read_text(), re.DOTALL):
        for line in block.replace('\\\n', ' ').splitlines():
            for part in line.split('&&'):
                words = shlex.split(part, comments=True)
                if words:
                    yield words


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
        if '://' in target:
            continue
        file, _, anchor = target.partition('#')
        path = page.parent / file if file else page
        assert path.exists(), f'{target} in {name(page)}'
        if anchor:
            assert anchor in anchors(path), f'{target} in {name(page)}'


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_files_that_pages_name_exist(page):
    text = page.read_text()
    for file in re.findall(r'(?<![\w/])((?:configs|tools|benchmarks|checkpoints|tests)/[\w./]+\.\w+)', text):
        assert (ROOT / file).exists() or f'cat > {file} ' in text, f'{file} in {name(page)}'  # or the page writes it


@pytest.fixture(scope='module')
def options():
    """Script -> the options that its help lists."""
    scripts = [script for script in SCRIPTS if script.name != 'command_line.py']
    texts = {name(script): subprocess.run([sys.executable, script, '--help'], capture_output=True, text=True).stdout
             for script in scripts}
    return {script: set(re.findall(r'(?<![\w-])--[a-z][\w-]*', text)) for script, text in texts.items()}


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_options_in_commands_exist(page, options):
    for words in commands(page):
        used = {match[1] for match in (re.match(r'\[*(--[a-z][\w-]*)', word) for word in words) if match}
        for script in [word for word in words if word in options]:
            assert used <= options[script], f'{script} has no {sorted(used - options[script])}, see {name(page)}'


def test_headings_that_the_code_cites_exist():
    headings = set(re.findall(r'^## (.+)$', (ROOT / 'docs/design.md').read_text(), re.MULTILINE))
    cited = {}
    for path in [*ROOT.rglob('projects/**/*.py'), *ROOT.glob('configs/**/*.py'), ROOT / 'requirements.txt']:
        text = re.sub(r'\s+(?:#\s)?', ' ', path.read_text())
        for heading in re.findall(r'docs/design\.md,? "([^"]+)"', text):
            cited.setdefault(heading, path)
    assert len(cited) > 5
    assert set(cited) <= headings, {heading: name(cited[heading]) for heading in set(cited) - headings}


def test_the_readme_is_short():
    text = (ROOT / 'README.md').read_text()
    assert len(text.splitlines()) <= 110 and len(text.encode()) <= 7000
    first_picture = next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith('!['))
    assert first_picture <= 10


@pytest.mark.parametrize('script', ['tools/setup_env.sh', 'tools/quickstart.sh'])
def test_scripts_say_what_they_do(script):
    done = subprocess.run([str(ROOT / script), '--help'], capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 3
