"""Packages of the extras: one sentence for each that is missing, which names its extra."""

import inspect
import logging
import sys
import tomllib
from pathlib import Path

import pytest
from messages import tells

from lightning_diff.foundation.errors import UserError
from lightning_diff.foundation.extras import EXTRAS, is_installed, required
from lightning_diff.nets import MLP

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BROUGHT_ALONG = {
    "peft",
    "onnxruntime",
}  # pipelines of diffusers read adapters with the one; the other only checks an export
NEITHER = ("test", "docs", "metrics")  # what tests need, what the site needs, and an old name of `fid`
OPTIONAL = {extra: packages for extra, packages in PROJECT["optional-dependencies"].items() if extra not in NEITHER}


def parquet(tmp_path):
    from lightning_diff.data import HuggingFace

    (tmp_path / "train.parquet").touch()
    HuggingFace(path=tmp_path, batch_size=1).setup()


def logger(name):
    def run(tmp_path):
        from lightning_diff.runs import recipe

        (tmp_path / "a.yaml").write_text(
            "model: {_target_: lightning_diff.DiffusionModule, net: {_target_: lightning_diff.nets.MLP}}\n"
            f"data: {{_target_: lightning_diff.data.Toy, batch_size: 4}}\ntrainer: {{max_steps: 1, logger: {name}}}\n"
        )
        recipe.load(tmp_path / "a.yaml")

    return run


def kernel(tmp_path):
    from lightning_diff.precision import quantized_copy

    quantized_copy(MLP((2,), width=64, depth=2), "int8", kernel="torchao")


def inception(tmp_path):
    from lightning_diff.metrics import inception

    inception._network(b"")


def dinov2(tmp_path):
    from lightning_diff.metrics import dinov2

    dinov2.DinoV2.refuse_missing()


def clip(tmp_path):
    from lightning_diff.rewards import ClipReward

    ClipReward("openai/clip-vit-base-patch32", ["a cat"])


def mapped(tmp_path):
    from lightning_diff.data import Datasets

    Datasets(path=tmp_path, batch_size=1).setup()


def chunks(tmp_path):
    from lightning_diff.data import LitData

    (tmp_path / "index.json").write_text('{"chunks": [{"chunk_size": 1}]}')
    LitData(path=tmp_path, batch_size=1).setup()


def hub(tmp_path):
    from lightning_diff.artifacts import load_pipeline

    load_pipeline("owner/name")


def graph(tmp_path):
    from lightning_diff.runs.export import onnx

    inspect.unwrap(onnx.refuse)(None)


def network(tmp_path):
    from lightning_diff.nets import Diffusers

    Diffusers("DiTTransformer2DModel", {}, (4, 32, 32))


def page(tmp_path):
    from lightning_diff.artifacts.metrics_table import MetricsTable
    from lightning_diff.runs.report import page

    (tmp_path / "recipe.yaml").touch()
    MetricsTable(tmp_path / "metrics.csv").log_metrics({"images": 1, "train/loss": 1.0}, step=1)
    page.write([tmp_path], tmp_path / "report.html")


USES = {
    "datasets": mapped,
    "diffusers": network,
    "huggingface_hub": hub,
    "litdata": chunks,
    "onnx": graph,
    "onnxscript": graph,
    "plotly": page,
    "pyarrow": parquet,
    "tensorboard": logger("tensorboard"),
    "timm": dinov2,
    "torch_fidelity": inception,
    "torchao": kernel,
    "transformers": clip,
    "wandb": logger("wandb"),
}


def test_the_table_is_the_projects():
    """The packages of each extra are in the table, by the names that are imported."""
    listed = {
        (each.partition(">")[0].replace("-", "_"), extra) for extra, each_of in OPTIONAL.items() for each in each_of
    }
    assert set(EXTRAS.items()) <= listed
    assert {package for package, _ in listed} == EXTRAS.keys() | BROUGHT_ALONG
    assert PROJECT["optional-dependencies"]["metrics"] == ["lightning_diff[fid]"]
    assert set(USES) == set(EXTRAS)


@pytest.fixture
def without(monkeypatch):
    """without(package): as if it were not installed."""

    class Hidden:
        def __init__(self, package):
            self.package = package

        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == self.package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def hide(package):
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr("sys.meta_path", [Hidden(package), *sys.meta_path])

    return hide


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_package_is_a_sentence_with_its_extra(package, without, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without(package)
    with pytest.raises(UserError) as error:
        USES[package](tmp_path)
    assert "\n" not in str(error.value)
    assert tells(str(error.value), f"... {package} ... pip install 'lightning_diff[{EXTRAS[package]}]'")


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_folder_of_its_name_beside_the_run_is_no_package(package, without, tmp_path, monkeypatch):
    """As W&B leaves one."""
    (tmp_path / "absent_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("absent_package")
    assert not is_installed("no_such_package_at_all")
    assert is_installed("json")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not is_installed(package)


def test_a_package_without_an_extra_is_named_itself():
    with pytest.raises(UserError) as error:
        required("absent_package.part", "The reader")
    assert tells(str(error.value), "The reader ... absent_package ... pip install absent_package")


def test_what_a_package_remarks_on_as_it_is_imported_is_not_heard(tmp_path, monkeypatch, caplog):
    (tmp_path / "loud_package.py").write_text("import logging\nlogging.getLogger('loud').warning('no kernels')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loud_package", raising=False)
    required("loud_package", "this test")
    assert not caplog.records
    logging.getLogger("loud").warning("later")
    assert [record.message for record in caplog.records] == ["later"]
