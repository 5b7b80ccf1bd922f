"""The built pages: every link leads somewhere, no example is slow, and a browser shows them whole."""

import functools
import http.server
import shutil
import threading
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

HTML = Path(__file__).parents[2] / "docs" / "_build" / "html"
PAGES = sorted(page for page in HTML.rglob("*.html") if "_static" not in page.parts)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = (390, 1440)

pytestmark = pytest.mark.skipif(not PAGES, reason="the pages are not built; `make docs` builds them")


class Links(HTMLParser):
    """What a page points to, what of it a browser fetches, and the places that can be pointed to."""

    def __init__(self, page):
        super().__init__()
        self.targets, self.fetched, self.places = [], [], {""}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places |= {found.get("id"), found.get("name") if tag == "a" else None}
        pointer = {"a": "href", "img": "src", "script": "src", "link": "href"}.get(tag)
        if pointer and found.get(pointer):
            self.targets.append(found[pointer])
            kinds = set((found.get("rel") or "").split())
            if tag in ("img", "script") or kinds & {"stylesheet", "icon", "preload"}:
                self.fetched.append(found[pointer])


@pytest.fixture(scope="module")
def links():
    return {page: Links(page) for page in PAGES}


def test_every_internal_link_leads_to_a_place_that_exists(links):
    dead = []
    for page, found in links.items():
        for target in found.targets:
            path, place = urldefrag(target)
            if urlsplit(target).scheme or target.startswith("//"):
                continue
            file = (page.parent / unquote(urlsplit(path).path)).resolve() if path else page
            file = file / "index.html" if file.is_dir() else file
            known = links.get(file)
            if not file.exists() or (known and unquote(place) not in known.places):
                dead.append(f"{page.relative_to(HTML)}: {target}")
    assert not dead


def test_nothing_is_fetched_from_elsewhere(links):
    fetched = [
        (page.name, target)
        for page, found in links.items()
        for target in found.fetched
        if urlsplit(target).netloc
    ]
    assert all(found.fetched for found in links.values())
    assert not fetched


def test_no_example_takes_long():
    times = ElementTree.parse(HTML.parent / "examples.xml").iter("testcase")
    seconds = {case.get("name"): float(case.get("time")) for case in times}
    assert len(seconds) >= 15
    # Thirty seconds, and as many again for a machine that does other things beside.
    assert {name: time for name, time in seconds.items() if time > 60} == {}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra 'docs'")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page_at(browser, site):
    """Return what opens a page at a width and returns it, with the complaints it made."""
    opened = []

    def open_page(path, width):
        page = browser.new_page(viewport={"width": width, "height": 900})
        opened.append(page)
        complaints = []
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        page.on("response", lambda answer: answer.status >= 400 and complaints.append(answer.url))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((site, "data:", "blob:")) or complaints.append(request.url)
            ),
        )
        page.goto(f"{site}/{path}", wait_until="load")
        return page, complaints

    yield open_page
    for page in opened:
        page.close()


# Formulas are text until MathJax, where a page has any, is loaded, has come to them and has its fonts.
SETTLED = """() => (window.MathJax ? window.MathJax.startup?.promise : Promise.resolve())
    ?.then(() => document.fonts.ready).then(() => true)"""
RENDERED = """() => [...document.querySelectorAll('.math')].filter(
    formula => !formula.querySelector('mjx-container') || formula.querySelector('mjx-merror')
).map(formula => formula.textContent)"""
BROKEN = """() => Promise.all([...document.images].map(async image => {
    image.loading = 'eager';
    try { await image.decode(); } catch { }
    return image.naturalWidth ? null : image.src;
})).then(all => all.filter(source => source))"""
# What sticks out of the page though nothing around it scrolls.
TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "path", [str(page.relative_to(HTML)) for page in PAGES if "_modules" not in page.parts]
)
def test_a_browser_shows_the_page_whole(path, width, page_at):
    page, complaints = page_at(path, width)
    page.wait_for_function(SETTLED)
    assert page.evaluate(RENDERED) == []
    assert page.evaluate(BROKEN) == []
    assert page.evaluate(TOO_WIDE) <= 0
    assert complaints == []


def test_the_search_finds_the_denoiser(page_at):
    page, complaints = page_at("search.html?q=denoiser", WIDTHS[1])
    page.wait_for_selector("#search-results li a")
    found = page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.textContent)")
    assert any("Denoiser" in name for name in found)
    assert complaints == []
