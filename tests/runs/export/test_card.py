"""The folder of an export: its card, its place, and its way to the hub."""

import errno
import re
from types import SimpleNamespace

import pytest
import torch
from export_models import DIT, run
from messages import tells

from lightning_diff.artifacts import load_denoiser
from lightning_diff.cli import app as cli
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs.export import card, write


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return run(tmp_path / "run", DIT)


@pytest.fixture
def quick(monkeypatch):
    """Without tracing, which takes seconds and is not what these tests are of."""
    monkeypatch.setattr(
        "lightning_diff.runs.export.graph.traced", lambda _: torch.export.export(Plain(), (torch.ones(2),))
    )
    monkeypatch.setattr("lightning_diff.runs.export.graph.difference", lambda *_: 1e-7)


class Plain(torch.nn.Module):
    def forward(self, x):
        return x


def test_the_card_says_what_the_model_is_and_no_path_of_this_machine(model, quick, tmp_path):
    made = write(tmp_path / "run", "pt2", tmp_path / "out", license="Apache-2.0")
    text = (made.path / "README.md").read_text()
    front = dict(line.split(": ", 1) for line in text.split("---")[1].strip().splitlines())
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "pytorch"
    for fact in ("DiT", "1,280 images", "one, two, three", "1 x 4 x 4", "torch.export.load", "![samples](samples.png)"):
        assert fact in text
    assert "| fd_inception | 3.25 | 1280 | 1000 | heun | 18 | 35 | c0ffee |" in text
    assert "path: digits.zip" in text
    assert "/home" not in text
    assert str(tmp_path) not in text
    assert (made.path / "samples.png").is_file()
    assert len(re.findall("```", text)) == 4


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/a/b/c.zip", "c.zip"),
        ("~/x/y", "y"),
        ("C:\\a\\b", "b"),
        ("lightning_diff.nets.DiT", None),
        ("a/b", None),
        ("https://a.b/c/d", None),
    ],
)
def test_paths_of_a_machine_are_cut(given, shown):
    assert card.without_paths({"key": [given]}) == {"key": [given if shown is None else shown]}


def test_safetensors_elsewhere_have_a_card_and_load_as_the_same_model(tmp_path, train, monkeypatch):
    folder = train("trained")
    assert cli.main(["export", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "lightning_diff.load" in (tmp_path / "out" / "README.md").read_text()
    one, other = (load_denoiser(path).net.state_dict() for path in (folder, tmp_path / "out"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    (tmp_path / "out" / "README.md").write_text("mine")
    assert cli.main(["export", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "README.md").read_text() == "mine"


# --- place ---


def test_an_export_replaces_an_export_and_nothing_else(model, quick, tmp_path):
    first = write(tmp_path / "run", "pt2", tmp_path / "out")
    (first.path / "old").touch()
    write(tmp_path / "run", "pt2", tmp_path / "out")
    assert not (tmp_path / "out" / "old").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    for place, facts in (("other", "holds something that is no export ... --out"), ("other/thesis.tex", "is a file")):
        with pytest.raises(UserError) as error:
            write(tmp_path / "run", "pt2", tmp_path / place)
        assert tells(str(error.value), f"{tmp_path}/{place}: {facts}")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)  # fmt: skip
def test_a_full_disk_is_a_line_and_leaves_nothing(model, quick, tmp_path, monkeypatch, fault):
    def full(*_):
        raise fault

    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(UserError) as error:
        write(tmp_path / "run", "pt2", tmp_path / "a" / "out")
    assert tells(str(error.value), f"{tmp_path}/a/out: cannot be written ... make room")
    assert not (tmp_path / "a").exists()


# --- the hub ---


class Hub:
    """In the place of the hub's interface."""

    calls: list[tuple] = []  # noqa: RUF012

    def __init__(self, token):
        self.calls.append(("token", token))

    def create_repo(self, name, **how):
        self.calls.append(("create", name))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.calls.append(("upload", repo_id, sorted(path.name for path in folder_path.iterdir())))


@pytest.fixture
def hub(monkeypatch):
    module = SimpleNamespace(HfApi=Hub, get_token=lambda: "secret")
    monkeypatch.setattr("lightning_diff.runs.export.push.required", lambda *_: module)
    monkeypatch.setattr(Hub, "calls", [])
    return module


def test_a_folder_is_pushed_whole(model, quick, tmp_path, hub):
    made = write(tmp_path / "run", "pt2", repository="me/digits")
    assert Hub.calls == [
        ("token", "secret"),
        ("create", "me/digits"),
        ("upload", "me/digits", ["README.md", "export.json", "model.pt2", "samples.png"]),
    ]
    assert tells(made.said, "differs ... pushed to https://huggingface.co/me/digits")
    assert "# digits" in (made.path / "README.md").read_text()


def test_without_token_name_or_network_it_is_one_line(model, quick, tmp_path, hub, monkeypatch):
    with pytest.raises(UserError) as error:
        write(tmp_path / "run", "pt2", repository="digits")
    assert tells(str(error.value), "--push: expected user/name ... 'digits'")
    hub.get_token = lambda: None
    with pytest.raises(UserError) as error:
        write(tmp_path / "run", "pt2", repository="me/digits")
    assert tells(str(error.value), "--push: ... HF_TOKEN")
    assert not (tmp_path / "run" / "export").exists()
    hub.get_token = lambda: "secret"

    def offline(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(Hub, "create_repo", offline)
    with pytest.raises(UserError) as error:
        write(tmp_path / "run", "pt2", repository="me/digits")
    assert tells(str(error.value), "--push: me/digits: ... no route to host ... hf upload me/digits")
    assert (tmp_path / "run" / "export" / "pt2" / "README.md").is_file()


# --- the command ---


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["--to", "onxx"], "error: --to: no 'onxx'; ... onnx"),
        (["--to", "pt2", "--license", "my own"], "error: --license: 'my own' ... apache-2.0"),
        (["--to", "diffusers"], "error: export: DiT ... onnx ... pt2"),
        (["--to", "lora"], "error: export: ... no adapters"),
        (["--to", "pt2", "--ema", "slow"], "error: run/checkpoints: has no usable checkpoint"),
    ],
)
def test_mistakes_are_one_line(model, words, facts, capsys):
    assert cli.main(["export", "run", *words]) == 2
    assert tells(capsys.readouterr().err, facts)
