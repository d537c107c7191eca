"""All four methods on the digits, in one command: train, distil, find a time grid, fine-tune to a reward; compare, export.

    python examples/chain/run.py [key=value ...]

Interrupted, it goes on where it stopped; what is trained is not trained again. key=value changes all three recipes beside this
file. Leaves runs/chain_*/ and, in chain/, the table of quality against evaluations (table.md), its picture (chain.png), learning
curves (compare.png) and the exported student (student/); with the extra `report` also one page about all runs (report.html).
"""

import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure

import lightning_diff as ld
from lightning_diff.artifacts.metrics_table import MetricsTable, read
from lightning_diff.cli import main as lightning_diff
from lightning_diff.data import Digits
from lightning_diff.foundation import extras
from lightning_diff.metrics import Reference
from lightning_diff.metrics.evaluate_denoiser import evaluate_denoiser
from lightning_diff.runs.sampler_settings import SamplerSettings

HERE, OUT = Path(__file__).parent, Path("chain")
STAGES = ("edm", "one_step", "reward")
N = 500  # samples of a draw: as many as there are held-out digits
DRAWS = 4  # the distance of a single one is uncertain by a fifth
COLUMNS = 20  # samples in a row of the picture


class Row(NamedTuple):
    """A model and a way to sample from it.

    Args:
        title: in table and picture.
        run: its run.
        sampler: what differs from the model's own settings (`SamplerSettings`).
    """

    title: str
    run: str
    sampler: dict[str, Any]


OWN, TUNED = (Path("runs") / run / "schedule.json" for run in ("chain_edm", "chain_reward"))
ROWS = (
    Row("trained, Heun in 18 steps", "chain_edm", {}),
    Row("trained, Heun in 5 steps", "chain_edm", {"steps": 5}),
    Row("scheduled, Heun in 5 steps", "chain_edm", {"schedule": OWN}),
    Row("trained, iPNDM in 5 steps", "chain_edm", {"steps": 5, "solver": "ipndm"}),
    Row("scheduled, iPNDM in 5 steps", "chain_edm", {"schedule": OWN, "solver": "ipndm"}),
    Row("distilled, 2 steps", "chain_one_step", {"levels": (0.4,)}),  # as it was trained
    Row("distilled, 1 step", "chain_one_step", {"steps": 1}),
    Row("rewarded, Heun in 18 steps", "chain_reward", {}),
    Row("rewarded, scheduled, Heun in 5 steps", "chain_reward", {"schedule": TUNED}),
)


class Measured(NamedTuple):
    """A row with its figures: mean and standard deviation over draws, and what they stand beside."""

    row: Row
    evaluations: float
    distance: float
    spread: float
    floor: float
    agreement: float


def main(overrides: list[str]) -> None:
    do("train", *(HERE / f"{stage}.yaml" for stage in STAGES), *overrides)
    for run in ("chain_edm", "chain_reward"):
        do("schedule", run, "--method", "art", "--steps", 5)  # measured once; the second time it is read
    print(f"\nmeasuring {len(ROWS)} ways to sample, {DRAWS} times {N} samples each", flush=True)
    data = Digits(batch_size=1)
    data.setup()
    reference = Reference(data)
    measured = [measure(row, reference) for row in ROWS]
    OUT.mkdir(exist_ok=True)
    draw(measured, OUT / "chain.png")
    runs = [f"chain_{stage}" for stage in STAGES]
    do("compare", *runs, "--out", OUT / "compare.png")
    if extras.is_installed("plotly"):
        do("report", *runs, "--out", OUT / "report.html")
    do("export", "chain_one_step", "--out", OUT / "student")
    same = torch.equal(ld.load(OUT / "student").sample(10), ld.load("chain_one_step").sample(10))
    print(f"{OUT / 'student'} draws {'the same samples' if same else 'OTHER SAMPLES'} when it is loaded back")
    text = table(measured)
    (OUT / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{OUT / 'table.md'}, {OUT / 'chain.png'}")


def do(*words: object) -> None:
    """One command of lightning-diff's; where it fails, this program ends with its exit code."""
    print("\n$ lightning-diff", *words, flush=True)
    if code := lightning_diff([str(word) for word in words]):
        sys.exit(code)


def measure(row: Row, reference: Reference) -> Measured:
    """Against the training images, with one seed after another, as `lightning-diff evaluate` does; each goes to metrics.csv."""
    model, figures = ld.load(row.run, device="cpu"), MetricsTable(Path("runs") / row.run / "metrics.csv")
    sampling, ema = SamplerSettings(**row.sampler).sampling(model.record), model.record.ema
    found = []
    for seed in range(DRAWS):
        rows = evaluate_denoiser(model.denoiser, reference, N, sampling=sampling, seed=seed, ema=ema)
        figures.log_rows([{"images": model.record.images} | each.record() for each in rows])
        found.append({each.metric: each for each in rows})
    distances = [each["frechet_classifier"].value for each in found]
    return Measured(
        row,
        evaluations=float(found[0]["frechet_classifier"].protocol.nfe),
        distance=statistics.fmean(distances),
        spread=statistics.stdev(distances),
        floor=found[0]["frechet_classifier_floor"].value,
        agreement=statistics.fmean(each["label_agreement"].value for each in found),
    )


def minutes(run: str) -> float:
    """Of training, by the images per second that were logged, so that a run that was interrupted counts as well."""
    rows = [row for row in read(Path("runs") / run / "metrics.csv") if row["metric"] == "images_per_second"]
    at = {int(row["images"]): float(row["value"]) for row in rows}
    return sum((images - before) / speed for before, (images, speed) in zip([0, *at], at.items(), strict=False)) / 60


def table(measured: list[Measured]) -> str:
    """Quality against evaluations, in Markdown."""
    header = "| model, sampler | evaluations | Fréchet distance | floor | the right digit | training |"
    lines = [header, "|---|---|---|---|---|---|"]
    for each in measured:
        distance = f"{each.distance:.3g} ± {each.spread:.2g} | {each.floor:.3g}"
        time = f"{minutes(each.row.run):.1f} min"
        lines.append(f"| {each.row.title} | {each.evaluations:g} | {distance} | {each.agreement:.1%} | {time} |")
    return "\n".join(lines) + "\n"


def draw(measured: list[Measured], path: Path) -> None:
    """Samples of all rows from the same noise, and their distances over evaluations."""
    figure = Figure(figsize=(14, 0.5 * len(measured) + 0.8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.9, 1))
    for axes, each in zip(left.subplots(len(measured), 1), measured, strict=True):
        images = ld.load(each.row.run, device="cpu").sample(COLUMNS, **each.row.sampler)
        strip = torch.nn.functional.pad(images[:, 0], (1, 1, 1, 1), value=1.0).transpose(0, 1).flatten(1).numpy()
        axes.imshow(strip, cmap="gray", vmin=-1, vmax=1)
        axes.set_ylabel(f"{each.row.title}: {each.evaluations:g}", rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
    plot = right.subplots()
    for number, (stage, name) in enumerate(zip(STAGES, ("trained", "distilled", "rewarded"), strict=True)):
        for marker, is_scheduled in (("o", False), ("^", True)):
            kept = [each for each in measured if each.row.run == f"chain_{stage}"]
            kept = [each for each in kept if ("schedule" in each.row.sampler) == is_scheduled]
            if kept:
                x, y = [each.evaluations for each in kept], [each.distance for each in kept]
                plot.plot(x, y, marker, color=f"C{number}", label=f"{name}, scheduled" if is_scheduled else name)
    plot.axhline(measured[0].floor, ls=":", color="0.5", label="floor: held-out digits")
    plot.set(xscale="log", yscale="log", xlabel="network evaluations for each sample", ylabel="Fréchet distance")
    plot.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
