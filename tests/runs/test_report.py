"""The report: one page that parses, takes nothing from outside, and holds what run folders hold, whatever their texts are."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from messages import tells
from noise_reports import report as noise_report
from PIL import Image

pytest.importorskip("plotly")

from lightning_diff.artifacts import events
from lightning_diff.artifacts.metrics_table import MetricsTable
from lightning_diff.artifacts.schedule import Schedule, save_schedule
from lightning_diff.cli import app as cli
from lightning_diff.runs.report import markup, pictures, plots, record

VOID = {"meta", "img", "input"}
PROTOCOL = {"n": 500, "seed": 0, "solver": "heun", "steps": 18, "nfe": 35, "ema": "ema", "reference": "abc"}
RECIPE = """
seed: 3
model: {_target_: lightning_diff.DiffusionModule, net: {_target_: lightning_diff.nets.MLP, width: 16}}
data: {_target_: lightning_diff.data.Toy, n: 256, batch_size: 16}
trainer: {max_steps: 8}
"""


class Page(HTMLParser):
    """A page that was parsed: tags, attributes of each tag, texts outside of scripts and styles, plots by their title."""

    def __init__(self, path: Path):
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.captions: list[str] = []
        self.plots: dict[str, dict] = {}
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "figcaption":
            self.captions.append(data)
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)
        elif self.tags[-1][1].get("type") == "application/json":
            self.plots[self.captions[-1]] = json.loads(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def sections(self) -> list[str | None]:
        return [attributes["id"] for attributes in self.attributes("section")]

    def curve(self, title: str, number: int = 0) -> dict[float, float]:
        line = self.plots[title]["data"][number]
        return dict(zip(line["x"], line["y"], strict=True))


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(name, recipe=RECIPE): a run folder with curves, figures, noise levels and three pictures."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, recipe: str = RECIPE) -> Path:
        folder = Path("runs") / name
        (folder / "samples").mkdir(parents=True)
        (folder / "recipe.yaml").write_text(f"name: {name}\n{recipe}")
        noise_report(name=name).write_tables(folder)
        table = MetricsTable(folder / "metrics.csv")
        for images, loss in ((500, 0.9), (1000, 0.25)):
            table.log_metrics({"images": images, "train/unweighted_loss": loss, "train/learning_rate": 0.001}, step=1)
        for images, nfe, distance in ((500, 35, 9.0), (1000, 35, 3.5), (1000, 5, 7.0)):
            protocol = PROTOCOL | {"nfe": nfe, "steps": nfe // 2 + 1}
            table.log_rows([{"images": images, "metric": "frechet_x", "value": distance} | protocol])
            floor = {"images": images, "metric": "frechet_x_floor", "value": 0.125, "n": 500, "reference": "abc"}
            table.log_rows([floor])
        for images in (0, 500, 1000):
            Image.new("RGB", (40, 20), (images % 255, 0, 0)).save(folder / "samples" / f"{images:012d}.png")
        return folder

    return make


def page(*words: str) -> Page:
    assert cli.main(["report", *words, "--out", "report.html"]) == 0
    return Page(Path("report.html"))


def test_a_trained_run_has_every_section(train):
    train("one", "callbacks=[{_target_: lightning_diff.callbacks.NoiseLevels}]")
    found = page("one")
    assert found.open == []
    assert found.sections() == ["runs", "training", "noise", "samples", "figures", "events", "recipe"]
    assert {"Unweighted loss (train/unweighted_loss)", "Learning rate (train/learning_rate)"} <= found.plots.keys()
    assert "Images per second (images_per_second)" in found.plots
    assert "torch" in found.words
    assert any("_target_: lightning_diff.DiffusionModule" in text for text in found.words)
    rows = [line.split(",") for line in Path("runs/one/metrics.csv").read_text().splitlines()]
    logged = {float(row[1]): float(row[3]) for row in rows if row[2] == "train/loss"}
    (title,) = [name for name in found.plots if name.endswith("(train/loss)")]
    assert found.curve(title) == pytest.approx(logged, rel=1e-5)


@pytest.mark.whole
def test_a_run_that_ends_leaves_its_report_unless_the_recipe_says_otherwise(train, capsys):
    folder = train("one", "report=true", "trainer.max_steps=4", "trainer.max_time={milliseconds: 1}")
    assert "finished" not in Page(folder / "report.html").words  # ended by the clock
    capsys.readouterr()
    train("one", "report=true", "trainer.max_steps=4")
    assert "finished" in Page(folder / "report.html").words
    assert "report.html" in capsys.readouterr().out.splitlines()[-1]
    assert not (train("two", "report=false") / "report.html").exists()


@pytest.mark.parametrize("fault", [RuntimeError("a\nfault"), MemoryError()])
def test_a_report_that_fails_is_one_line_and_the_run_is_finished(train, monkeypatch, capsys, fault):
    monkeypatch.setattr("lightning_diff.runs.report.page.page", lambda records: raised(fault))
    folder = train("one", "report=true")
    *_, said, done = capsys.readouterr().out.splitlines()
    assert tells(said, "runs/one/report.html: ... not written ...")
    assert "report.html" not in done
    assert (folder / "finished.json").is_file()
    assert sorted(folder.glob("report*")) == []


def test_without_plotly_nothing_is_said(train, monkeypatch, capsys):
    monkeypatch.setattr("lightning_diff.foundation.extras.is_installed", lambda package: False)
    folder = train("one", "report=true")
    assert not (folder / "report.html").exists()
    assert "report" not in capsys.readouterr().out


def test_the_command_writes_one_runs_report_into_its_folder_and_several_here(make):
    make("a")
    make("b", f"{RECIPE}x: 2\n")
    assert cli.main(["report", "a"]) == 0
    assert Page(Path("runs/a/report.html")).sections()
    assert not Path("report.html").exists()
    assert cli.main(["report", "a", "b"]) == 0
    assert Page(Path("report.html")).sections()


def raised(fault: Exception) -> str:
    raise fault


def test_figures_stand_with_protocol_and_floor_over_images_and_over_evaluations(make):
    make("a")
    found = page("a")
    line, other, floor = found.plots["frechet_x"]["data"]
    assert (line["x"], line["y"]) == ([500, 1000], [9.0, 3.5])
    assert (other["x"], other["y"]) == ([1000], [7.0])
    assert floor["y"] == [0.125, 0.125]
    assert found.curve("frechet_x over evaluations") == {5: 7.0, 35: 3.5}
    assert all(word in found.words for word in ("frechet_x", "3.5", "0.125", "heun", "abc"))


def test_several_runs_side_by_side(make):
    make("a")
    make("b", f"{RECIPE}x: 2\n")
    found = page("a", "b")
    losses = found.plots["Unweighted loss (train/unweighted_loss)"]["data"]
    assert [line["name"] for line in losses] == ["a", "b"]
    assert len({line["line"]["color"] for line in losses}) == 2
    assert len(found.attributes("input")) == 2  # a slider each
    assert [title for title in found.plots if "through training" in title] == [
        f"Variance of the loss through training: {name}" for name in "ab"
    ]


def test_resumes_and_skipped_steps_are_events(train):
    train("one", "trainer.max_steps=4")
    assert not Path("runs/one/events.jsonl").exists()
    folder = train("one", "trainer.max_steps=8")
    events.note(folder, 96, "step 6: loss is not finite; the step is skipped")
    with (folder / events.NAME).open("a") as file:
        file.write('{"when": 1.0, "ima')
    assert [(event.images, event.text) for event in events.read(folder)] == [
        (64, "resumed at step 4"),
        (96, "step 6: loss is not finite; the step is skipped"),
    ]
    found = page("one")
    assert {"resumed at step 4", "step 6: loss is not finite; the step is skipped", "finished"} <= set(found.words)


def test_nothing_is_noted_outside_of_a_run(tmp_path):
    events.note(tmp_path, 3, "resumed")
    assert not list(tmp_path.iterdir())


def test_samples_have_a_slider_and_say_what_they_are(make):
    make("a")
    found = page("a")
    (slider,) = found.attributes("input")
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == ("range", "0", "2", "2")
    images = found.attributes("img")
    assert [image["alt"] for image in images] == [f"a: samples at {n} images" for n in ("0", "500", "1,000")]
    assert all(image["src"].startswith("data:image/") for image in images)


def test_rewards_and_schedules_have_sections_of_their_own(make):
    folder = make("a")
    watched = {"reward/mean": -1.5, "rollout/agreement": 0.75, "schedule/cost": 3.0}
    MetricsTable(folder / "metrics.csv").log_metrics({"images": 1000, **watched}, step=2)
    Image.new("RGB", (16, 16)).save(folder / "before_after.png")
    save_schedule(folder, Schedule([80.0, 1.0, 0.0], "art", "heun", {}, "model"))
    found = page("a")
    assert found.sections()[-4:] == ["schedule", "reward", "events", "recipe"]
    assert found.curve("Mean reward of the averaged weights (reward/mean)") == {1000: -1.5}
    assert found.curve("Agreement of previews with full samples (rollout/agreement)") == {1000: 0.75}
    assert found.curve("Noise levels of the schedules") == {0: 80.0, 1: 1.0}
    assert found.curve("schedule/cost") == {1000: 3.0}
    assert "a: Samples before and after" in [image["alt"] for image in found.attributes("img")]


def test_text_of_a_recipe_is_text(make):
    evil = "</code></script><script>alert(1)</script><img src=x onerror=alert(2)>"
    folder = make("a", f"{RECIPE}tags: ['{evil}', '{evil}\"&']\n")
    MetricsTable(folder / "metrics.csv").log_metrics({"images": 1000, evil: 2.0}, step=2)
    found = page("a")
    assert found.open == []
    scripts = [attributes for attributes in found.attributes("script") if attributes.get("type") != "application/json"]
    assert len(scripts) == 2  # plotly's and the page's own
    assert not [image for image in found.attributes("img") if image["src"] == "x"]
    assert any(evil in text for text in found.words)
    assert found.curve(evil) == {1000: 2.0}


def test_nothing_is_taken_from_outside_and_no_folder_of_the_machine_is_told(make, tmp_path):
    secret = f"{RECIPE}path: {tmp_path}/pictures/train\ntags: ['see {tmp_path}/other, file://{tmp_path}/a']\n"
    folder = make("a", secret)
    words = ["/usr/bin/lightning-diff", "train", f"data.path={tmp_path}/pictures"]
    (folder / "versions.json").write_text(json.dumps({"torch": "2.9", "argv": words}))
    (folder / "noise_levels.csv").unlink()
    found = page(str(folder.absolute()))
    assert str(tmp_path) not in found.text
    assert any("lightning-diff train data.path=…/pictures" in text for text in found.words)
    assert any("path: …/train" in text for text in found.words)
    for _, attributes in found.tags:
        assert not {"href", "src"} & attributes.keys() or re.match(
            "#|data:", attributes.get("href") or attributes["src"]
        )
    (policy,) = [meta["content"] for meta in found.attributes("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none';")
    assert "showSendToCloud: false" in found.text  # plotly's button that uploads a plot


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["/usr/bin/lightning-diff", "train", "a.yaml"], "lightning-diff train a.yaml"),
        (["/x/lightning_diff/__main__.py", "resume", "a"], "lightning-diff resume a"),
        (["examples/chain/run.py", "seed=1"], "python run.py seed=1"),
        ([], None),
    ],
)
def test_a_run_says_what_was_typed(make, argv, shown):
    (make("a") / "versions.json").write_text(json.dumps({"torch": "2.9", "argv": argv}))
    found = page("a")
    assert (shown in found.words) == (shown is not None)
    assert any("was started by" in text for text in found.words) == (shown is not None)


def test_what_a_run_notes_of_its_lengths_is_no_difference_of_recipes(make):
    parts = "of_run: {model.warmup: {written: 0.1, images: %d}}\n"
    make("a", RECIPE + parts % 100)
    make("b", RECIPE.replace("width: 16", "width: 32") + parts % 200)
    found = page("a", "b")
    assert "model.net.width" in found.words
    assert not [text for text in found.words if text.startswith("of_run")]


def test_a_large_run_stays_below_ten_megabytes_and_keeps_its_spikes(make):
    folder = make("a")
    losses = np.ones(20_000)
    losses[12_345] = 1000.0
    rows = [{"step": i, "images": i, "metric": "train/loss", "value": float(loss)} for i, loss in enumerate(losses)]
    MetricsTable(folder / "metrics.csv").log_rows(rows)
    for images in range(2000, 2040):
        Image.new("RGB", (8, 8)).save(folder / "samples" / f"{images:012d}.png")
    found = page("a")
    assert len(found.text.encode()) < 10e6
    assert len(found.attributes("img")) == pictures.MOST_GRIDS
    assert found.attributes("img")[-1]["alt"] == "a: samples at 2,039 images"
    (title,) = [name for name in found.plots if name.endswith("(train/loss)")]
    line = found.curve(title)
    assert len(line) <= plots.MOST_POINTS + 2
    assert line[12_345] == 1000.0


def test_a_picture_is_made_smaller_until_it_fits(tmp_path):
    noise = np.random.Generator(np.random.Philox(0)).integers(0, 255, (200, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    whole, reduced = (pictures.embedded(tmp_path / "noise.png", most) for most in (10**6, 20_000))
    assert whole is not None
    assert reduced is not None
    assert whole[1:] == (400, 200)
    assert len(reduced[0]) <= 20_000
    assert reduced[1] == 2 * reduced[2] < 400
    assert pictures.embedded(tmp_path / "gone.png", 1000) is None


def test_a_run_under_way_is_reported_with_its_last_line_cut_short(make):
    folder = make("a")
    with (folder / "metrics.csv").open("a") as file:
        file.write("3,1500,train/unwei")
    (folder / "samples" / "000000002000.png").write_bytes(b"\x89PNG")
    found = page("a")
    assert found.curve("Unweighted loss (train/unweighted_loss)") == {500: 0.9, 1000: 0.25}
    assert len(found.attributes("img")) == 3


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["nowhere"], "error: nowhere: ... no such run"),
        (["runs/plain"], "error: runs/plain: ... no run folder"),
        (["empty"], "error: runs/empty: ... nothing is recorded ... trainer.log_every_n_steps"),
        (["a", "--out", "page.txt"], "error: --out: page.txt ... .html"),
        (["a", "--out", "runs/a/recipe.yaml/page.html"], "error: runs/a/recipe.yaml/page.html ... written"),
    ],
)
def test_what_cannot_be_reported_is_one_line(make, capsys, words, facts):
    make("a")
    Path("runs/plain").mkdir()
    Path("runs/empty").mkdir()
    Path("runs/empty/recipe.yaml").write_text(RECIPE)
    assert cli.main(["report", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert tells(err, facts)
    assert not list(Path().rglob("*.html"))


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "y" / "other"]
    assert record.names(folders) == ["x/run", "y/run", "y/other"]
    assert record.names(folders[:1]) == ["run"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("model=/home/me/runs/a seed=1", "model=…/a seed=1"),
        ("'/data/x y'", "'…/x y'"),
        ("~/data/set", "…/set"),
        ("C:\\data\\set", "…/set"),
        ("images/s, runs/a/b and https://host/page", "images/s, runs/a/b and https://host/page"),
    ],
)
def test_absolute_paths_are_shortened_in_texts(text, shown):
    assert markup.without_folders(text) == shown


def test_a_path_with_spaces_is_shortened_where_it_is_the_whole_value():
    assert markup.plain({"path": ["/home/my pictures/of cats", 3]}) == {"path": ["…/of cats", 3]}


def test_a_report_can_be_turned_off_and_on_again_in_the_middle_of_a_run(train):
    train("one", "report=false", "trainer.max_steps=4")
    assert (train("one", "report=true", "trainer.max_steps=8") / "report.html").is_file()
