import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from projects.mmdet3d_plugin.visualization.html_report import Picture, Section, Table, write_report

VOID = {'meta', 'link', 'img', 'br'}
PIXEL = base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA'
                         'AABJRU5ErkJggg==')


class Page(HTMLParser):
    """A page that is checked while it is read: tags are closed in order, nothing is fetched from outside.

    Attributes:
        images: (alt, bytes) of every image.
        links, ids: places of the page that are linked to, and those that there are.
        text: all text outside the style sheet.
    """

    def __init__(self, content):
        super().__init__()
        self.open, self.images, self.text, self.tags, self.links, self.ids = [], [], '', [], [], []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        assert tag not in ('script', 'iframe', 'object', 'embed', 'base')
        assert not any(name.startswith('on') for name in attributes)
        self.ids += [attributes['id']] if 'id' in attributes else []
        if attributes.get('href', '').startswith('#'):
            self.links.append(attributes.pop('href')[1:])
        for name in ('src', 'href', 'srcset', 'action', 'data'):
            assert attributes.get(name, 'data:').startswith('data:'), (tag, attributes[name])
        if tag == 'img':
            kind, content = attributes['src'].split(',')
            assert kind == 'data:image/webp;base64' and attributes['alt'].strip()
            self.images.append((attributes['alt'], base64.b64decode(content, validate=True)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == 'style':
            assert 'url(' not in data and '@import' not in data
        else:
            self.text += data


@pytest.fixture
def report(tmp_path):
    (tmp_path / 'a.png').write_bytes(PIXEL)
    write_report(tmp_path / 'report.html', 'Title & <b>more</b>', [('command', "tool 'a b' <c>"), ('seed', '1')], [
        Section('First', 2, ['Text with "quotes" & <tags>.',
                             Table('Numbers', ('name', 'value'), [('a', 1), ('b', 0.12345)])]),
        Section('Second', 3, [Picture(tmp_path / 'a.png', 'alt "text" > & <', 'what it is')])])
    return tmp_path / 'report.html'


def test_pictures_are_embedded_and_text_is_text(report):
    content = report.read_text(encoding='utf-8')
    page = Page(content)
    (alt, content_of_image), = page.images
    assert alt == 'alt "text" > & <' and Image.open(io.BytesIO(content_of_image)).size == (1, 1)
    assert page.links == page.ids == ['part-1', 'part-2']
    for text in ('Title & <b>more</b>', "tool 'a b' <c>", 'Text with "quotes" & <tags>.', 'what it is', 'Numbers',
                 '0.123'):
        assert text in page.text
    assert page.tags.count('figure') == page.tags.count('figcaption') == 1 and page.tags.count('h2') == 2
    assert content.startswith('<!DOCTYPE html>\n<html lang="en">') and '<meta charset="utf-8">' in content
    assert "default-src 'none'; img-src data:" in content  # the browser itself refuses to fetch anything
    assert 'http://' not in content and 'https://' not in content


def test_nothing_is_left_of_a_report_whose_picture_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match='no.png'):
        write_report(tmp_path / 'report.html', 'title', [], [Section('s', 2, [Picture(tmp_path / 'no.png', 'a', 'b')])])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('hostile', [
    '<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "' onload='alert(1)", '{{ 7 * 7 }}{% raw %}',
    '</style><b>', 'javascript:alert(1)'])
def test_hostile_names_are_text_wherever_they_stand(tmp_path, hostile):
    (tmp_path / 'a.png').write_bytes(PIXEL)
    write_report(tmp_path / 'report.html', hostile, [(hostile, hostile)], [
        Section(hostile, 2, [hostile, Table(hostile, (hostile, ), [(hostile, )]),
                             Picture(tmp_path / 'a.png', hostile, hostile)])])
    page = Page((tmp_path / 'report.html').read_text(encoding='utf-8'))  # which refuses scripts and handlers
    assert page.text.count(hostile) == 11 and page.images[0][0] == hostile and '49' not in page.text
    assert page.tags.count('img') == 1 and 'b' not in page.tags


def test_a_report_of_many_pictures_is_still_3_mb(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / 'a.png')

    def sizes(number):
        """Of a page of so many pictures, and of each of these in it."""
        path = tmp_path / 'report.html'
        write_report(path, 'title', [], [Section('s', 2, [Picture(tmp_path / 'a.png', 'a', 'b')] * number)])
        images = Page(path.read_text(encoding='utf-8')).images
        assert len(images) == number
        return path.stat().st_size, len(images[0][1])

    _, best = sizes(1)
    fit = int((3_000_000 - 5_000) / (best * 4 / 3 + 100))
    assert sizes(fit) == (pytest.approx(3_000_000, rel=0.1), best)
    page, smaller = sizes(fit + 2)
    assert page <= 3_000_000 and smaller < 0.9 * best
    page, least = sizes(3 * fit)  # more than fit: nothing is left out
    assert page > 3_000_000 and least < smaller
