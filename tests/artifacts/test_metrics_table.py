import pytest
from lightning.pytorch import Callback

from lightning_diff.artifacts.metrics_columns import VERSION_0_1
from lightning_diff.artifacts.metrics_table import HEADER, MetricsTable, read
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run

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
    table.go_back(20, 1)
    assert [row["step"] for row in read(table.path)] == ["1", "2"]
    table.log_metrics({"images": 30, "train/loss": 3.0}, step=3)
    assert table.path.read_text() == whole


def write(table, *rows):
    for images, metric, value in rows:
        table.log_rows([{"step": images // 10, "images": images, "metric": metric, "value": value}])


def test_rows_written_after_a_checkpoint_at_its_images_come_back_once_and_in_order(tmp_path):
    whole, table = MetricsTable(tmp_path / "whole.csv"), MetricsTable(tmp_path / "metrics.csv")
    before = [(10, "loss", 1.0), (20, "loss", 2.0), (20, "micro", 2.1)]
    after = [(20, "micro", 2.2), (20, "micro", 2.3), (20, "end", 0.5), (20, "end floor", 0.4)]
    write(whole, *before, *after)
    for written in range(len(after) + 1):  # killed after so many of them
        table.path.unlink(missing_ok=True)
        write(table, *before)
        rows = table.rows_at(20)
        write(table, *after[:written])
        again = MetricsTable(table.path)
        again.go_back(20, rows)
        assert again.rows_at(20) == rows == 2
        write(again, *after)
        assert table.path.read_bytes() == whole.path.read_bytes(), written


def test_somebodys_own_rows_outlive_a_resume(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")
    write(table, (10, "loss", 1.0), (20, "loss", 2.0), (30, "loss", 3.0))
    write(MetricsTable(table.path), (20, "frechet", 7.0))  # lightning-diff evaluate
    again = MetricsTable(table.path)
    again.go_back(20, 1)
    write(again, (30, "loss", 3.5))
    rows = [(row["images"], row["metric"], row["value"]) for row in read(table.path)]
    assert rows == [("10", "loss", "1"), ("20", "loss", "2"), ("20", "frechet", "7"), ("30", "loss", "3.5")]
    again = MetricsTable(table.path)
    again.go_back(20, 1)
    write(again, (20, "frechet", 7.25))  # the same figure by the run itself: the newer one stays, in its place
    assert [row["value"] for row in read(table.path)] == ["1", "2", "7.25"]


def test_rows_from_before_the_start_of_training_stand_once(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")
    for _ in range(3):
        table.log_metrics({"mine": 1.0}, step=0)
        table.go_back(0, 0)
    assert [(row["metric"], row["images"]) for row in read(table.path)] == [("mine", "")]


def test_a_row_after_one_that_was_cut_short_is_whole(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")
    write(table, (10, "loss", 1.0))
    with table.path.open("a") as file:
        file.write("2,20,lo")
    write(MetricsTable(table.path), (10, "frechet", 7.0))
    assert [row["metric"] for row in read(table.path)] == ["loss", "frechet"]


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


OLD_HEADER = ",".join(VERSION_0_1)
OLD = [OLD_HEADER, "1,10,train/loss,1,,,,,,,", "2,20,frechet_x,3.5,500,0,heun,18,35,ema,abc"]


def test_a_table_of_a_newer_version_is_told_as_such(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(",".join([*HEADER, "colour"]) + "\n")
    with pytest.raises(UserError, match=r"metrics\.csv: .*newer version of lightning_diff \(columns colour\); update"):
        read(path)
    path.write_text("a,b\n")
    with pytest.raises(UserError, match="not those of a table"):
        read(path)


def test_a_table_of_version_0_1_is_read_and_gets_the_later_columns_when_a_row_is_added(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("\n".join([*OLD, ""]))
    rows = read(path)
    assert all(tuple(row) == HEADER for row in rows)
    assert (rows[1]["ema"], rows[1]["guidance"]) == ("ema", "")
    assert path.read_text().splitlines()[0] == OLD_HEADER
    MetricsTable(path).log_rows([{"step": 2, "images": 20, "metric": "frechet_x", "value": 3.0, "guidance": 1.5}])
    assert read(path)[:2] == rows
    assert [row["guidance"] for row in read(path)] == ["", "", "1.5"]
    assert path.read_text().splitlines()[0] == ",".join(HEADER)


def test_a_figure_that_version_0_1_was_interrupted_after_takes_its_old_place(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("\n".join([*OLD, ""]))
    table = MetricsTable(path)
    table.go_back(20, 0)
    columns = {"n": 500, "seed": 0, "solver": "heun", "steps": 18, "nfe": 35, "ema": "ema", "reference": "abc"}
    table.log_rows([{"step": 2, "images": 20, "metric": "frechet_x", "value": 3.25, "guidance": 1.0} | columns])
    assert [(row["metric"], row["value"]) for row in read(path)] == [("train/loss", "1"), ("frechet_x", "3.25")]
    assert read(path)[1]["guidance"] == "1"
