from lightning_diff.metrics_table import HEADER, MetricsTable, read


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
