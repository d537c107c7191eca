"""Reports in a real browser: every plot is drawn, nothing is complained of, nothing is wider than the screen, of a phone too.

Needs Chromium (`chromium`, `chromium-headless-shell` or `google-chrome` on the path) and playwright, which drives it.
"""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("plotly")
pytest.importorskip("playwright.sync_api")

from noise_reports import report as noise_report
from PIL import Image
from playwright.sync_api import sync_playwright

from lightning_diff.artifacts import events
from lightning_diff.artifacts.metrics_table import MetricsTable
from lightning_diff.artifacts.schedule import Schedule, save_schedule
from lightning_diff.runs import recipe
from lightning_diff.runs.report import page as report

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
PROTOCOL = {
    "n": 500,
    "seed": 0,
    "solver": "heun",
    "steps": 18,
    "nfe": 35,
    "ema": "ema",
    "reference": "0123456789abcdef",
}
SMALLEST = 9  # pixels: a text below is hard to read


def make(name: str, packaged: str = "digits_edm", *words: str) -> Path:
    """A run folder as a packaged recipe would leave it, with curves, figures, noise levels and pictures."""
    folder = Path("runs") / name
    (folder / "samples").mkdir(parents=True)
    recipe.save(recipe.compose(packaged, [f"name={name}", *words]), folder / recipe.SAVED)
    noise_report(name=name).write_tables(folder)
    table, logged = MetricsTable(folder / "metrics.csv"), ("train/loss", "train/unweighted_loss", "images_per_second")
    for images in range(6400, 307_201, 6400):
        table.log_metrics({"images": images, **dict.fromkeys(logged, 1 + 1e4 / images)}, step=images // 128)
    for nfe in (35, 9):
        measured = {"frechet_classifier": 0.1 * 35 / nfe, "label_agreement": 0.99}
        table.log_rows(
            [{"images": 307_200, "metric": m, "value": v} | PROTOCOL | {"nfe": nfe} for m, v in measured.items()]
        )
    for images in (0, 153_600, 307_200):
        Image.new("RGB", (800, 440), (images % 255, 0, 0)).save(folder / "samples" / f"{images:012d}.png")
    return folder


def of_one() -> list[Path]:
    return [make("digits")]


def of_a_resumed_one() -> list[Path]:
    folder = make("digits")
    events.note(folder, 153_600, "resumed at step 1,200")
    return [folder]


def of_three_seeds() -> list[Path]:
    return [make(f"digits,seed={seed}", "digits_edm", f"seed={seed}") for seed in range(3)]


def of_a_reward() -> list[Path]:
    folder = make("reward", "digits_reward")
    values = {"reward/mean": -1.5, "rollout/agreement": 0.75, "seconds/explore": 3.0}
    MetricsTable(folder / "metrics.csv").log_metrics({"images": 1000, **values}, step=2)
    Image.new("RGB", (640, 320)).save(folder / "before_after.png")
    save_schedule(folder, Schedule([80.0, 1.0, 0.0], "art", "heun", {}, "model"))
    return [folder]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=0)
        yield opened
        opened.close()


@pytest.mark.parametrize("runs", [of_one, of_a_resumed_one, of_three_seeds, of_a_reward])
def test_a_report_is_drawn_without_complaint_and_fits_a_phone(browser, tmp_path, monkeypatch, runs):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "report.html"
    report.write(runs(), path)
    assert path.stat().st_size < 10e6
    page = browser.new_page(viewport=PHONE)
    page.set_default_timeout(0)  # however busy the machine is
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
    page.wait_for_function("!document.querySelector('.plot:not(:has(.plot-container))')")
    assert page.locator(".plot").count() >= 8
    for size in (PHONE, DESKTOP):
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    sizes = page.evaluate("[...document.querySelectorAll('body *')].map(e => parseFloat(getComputedStyle(e).fontSize))")
    assert min(sizes) >= SMALLEST
    assert all(image.get_attribute("alt") for image in page.locator("img").all())
    slider = page.locator(".slider").first
    slider.locator("input").fill("0")
    assert slider.locator(".one:visible p").all_inner_texts() == ["0 images"]
    assert complaints == []
    page.close()
