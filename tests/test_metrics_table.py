from lightning.pytorch import Callback

from lightning_diff import recipe, run
from lightning_diff.metrics_table import HEADER, MetricsTable, read

RECIPE = """
model: {_target_: lightning_diff.DiffusionModule, net: {_target_: lightning_diff.nets.MLP, width: 8, depth: 1}}
data: {_target_: lightning_diff.data.Toy, n: 64, batch_size: 8}
callbacks: [{_target_: test_metrics_table.Logs}]
trainer: {accelerator: cpu, log_every_n_steps: 2, max_steps: 4}
"""


class Logs(Callback):
    """Logs as Lightning's users do."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.log("mine", outputs["loss"].detach())


def test_rows_are_tidy_and_carry_their_protocol(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")
    table.log_metrics({"images": 128, "train/loss": 0.123456789123}, step=1)
    table.log_rows(
        [{"step": 1, "images": 128, "metric": "frechet", "value": 2.0, "n": 500, "solver": "heun", "nfe": 35}]
    )
    first, second = read(table.path)
    assert tuple(first) == HEADER
    assert (first["metric"], first["value"], first["n"]) == ("train/loss", "0.12345679", "")
    assert (second["n"], second["solver"], second["nfe"]) == ("500", "heun", "35")


def test_resume_drops_what_came_after_and_half_a_line(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")
    for step in (1, 2, 3):
        table.log_metrics({"images": 10 * step, "train/loss": float(step)}, step=step)
    whole = table.path.read_text()
    with table.path.open("a") as file:
        file.write("4,40,train/lo")  # a process killed while writing
    table.truncate(20)
    assert [row["step"] for row in read(table.path)] == ["1", "2"]
    table.log_metrics({"images": 30, "train/loss": 3.0}, step=3)
    assert table.path.read_text() == whole


def test_what_self_log_records_has_its_step_and_images_and_outlives_a_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "logs.yaml"
    path.write_text(RECIPE)
    for max_steps in (4, 8):
        run.train(recipe.load(path, [f"trainer.max_steps={max_steps}"]), path)
    rows = {
        name: [row for row in read("runs/logs/metrics.csv") if row["metric"] == name] for name in ("mine", "train/loss")
    }
    for name in rows:
        assert [(row["step"], row["images"]) for row in rows[name]] == [
            ("2", "16"),
            ("4", "32"),
            ("6", "48"),
            ("8", "64"),
        ]
