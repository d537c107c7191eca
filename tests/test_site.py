"""The site builds without a warning, takes nothing from elsewhere, and its links and anchors lead somewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole

pytest.importorskip("material")
pytest.importorskip("mkdocstrings_handlers.python")
ROOT = Path(__file__).parents[1]
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
NOT_LOADED = {"canonical", "next", "prev"}  # what a link element names and no browser fetches


class Page(HTMLParser):
    """What a page loads, links to, and has as targets."""

    def __init__(self, path: Path):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.targets: list[str] = []
        self.wordless = 0  # pictures without a description
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.targets += [value for name, value in attrs if name == "id" and value]
        if tag in LOADED and (address := given.get(LOADED[tag])) and given.get("rel") not in NOT_LOADED:
            self.loads.append(address)
        if tag == "a" and (address := given.get("href")):
            self.links.append(address)
        self.wordless += tag == "img" and not given.get("alt")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site, and its pages by path."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    environment = {"NO_MKDOCS_2_WARNING": "1", "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder, {path.relative_to(folder): Page(path) for path in folder.rglob("*.html")}


def test_every_page_is_built(site):
    _, pages = site
    docs = ROOT / "docs"
    wanted = {path.relative_to(docs).with_suffix(".html") for path in docs.rglob("*.md")}
    assert wanted <= pages.keys()


def test_nothing_is_loaded_from_elsewhere(site):
    folder, pages = site
    assert [(path, each) for path, page in pages.items() for each in page.loads if re.match(r"(\w+:)?//", each)] == []
    styles = "".join(path.read_text() for path in folder.rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//", styles) == []


def test_links_and_anchors_lead_somewhere(site):
    _, pages = site
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"\w+:", link) or path.name == "404.html":
                continue
            place, _, anchor = link.partition("#")
            target = Path(path.parent, place) if place else path
            parts: list[str] = []
            for part in target.parts:
                parts = parts[:-1] if part == ".." else [*parts, part]
            there = pages.get(Path(*parts)) if parts else pages.get(Path("index.html"))
            is_lost = place.endswith(".html") and there is None
            if is_lost or (anchor and there and anchor not in there.targets):
                wrong.append((str(path), link))
    assert wrong == []


def test_names_have_anchors_of_their_own_and_pictures_have_words(site):
    _, pages = site
    for path, page in pages.items():
        assert page.wordless == 0, path
        assert len(page.targets) == len(set(page.targets)), path
    names = [name for name in pages[Path("reference/noise.html")].targets if name.startswith("lightning_diff.noise.")]
    assert "lightning_diff.noise.LogNormal" in names
    assert "lightning_diff.noise.sigma_to_log_snr" in names
