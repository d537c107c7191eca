"""Everything that changes a sample is in its protocol, and figures of two protocols are never set side by side."""

import inspect
import math
from dataclasses import fields

import pytest
import torch
from torch import nn

from lightning_diff.artifacts import metrics_columns
from lightning_diff.data import Toy
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation import rng
from lightning_diff.metrics import Protocol, Reference
from lightning_diff.metrics.evaluate_denoiser import evaluate_denoiser
from lightning_diff.metrics.protocol import Drawing, evaluations, precision, protocol
from lightning_diff.nets import MLP
from lightning_diff.precision import quantized_copy
from lightning_diff.runs import compare
from lightning_diff.runs.sampler_settings import SamplerSettings
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules import StepPolicy, karras
from lightning_diff.schedules.adaptive_sampling import PolicySampling, sample_with_policy
from lightning_diff.schedules.sampling import Sampling, choose

CPU = torch.device("cpu")
LABELS = torch.arange(8)


def policy(seed: int = 0, **changes) -> PolicySampling:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = StepPolicy(max_steps=3, width=8, **changes)
        nn.init.normal_(made.net[-1].weight)
    return PolicySampling(made, f"{made.solver}/policy_{made.gamma:g}")


def network(seed: int = 0, **changes) -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Denoiser(MLP((2,), 8, 16, 1), **changes)


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def reference():
    return Reference(Toy(batch_size=8, n=256, conditional=True), "pixels")


GUIDE = network(1)
BASE = {
    "sampling": choose(None, "heun", 3),
    "seed": 0,
    "guidance": 2.0,
    "guide": GUIDE,
    "interval": (0.1, 10.0),
    "options": {},
}
# Of each thing that `Drawing` takes, other values; a new field without an entry here fails.
OTHERS = {
    "sampling": [
        choose(None, "heun", 4),
        choose(None, "euler", 3),
        choose(None, "heun", 3, "uniform"),
        choose(None, "heun", 3, sigma_max=20.0),
        choose(None, "heun", 3, sigma_min=0.01),
        Sampling("heun", karras(3, rho=5.0), "heun"),
        Sampling("euler", karras(3), "heun"),
        policy(),
        policy(1),
        policy(gamma=0.9),
        policy(sigma_max=20.0),
        policy(solver="heun"),
    ],
    "seed": [1, rng.Seed(0, 3 - rng.generator_of(0))],
    "guidance": [1.5, 1.0],
    "guide": [None, network(2), network(1, sigma_data=0.6), network(1, time="trigflow")],
    "interval": [(0.1, 20.0), (0.0, 10.0), (0.0, math.inf)],
    "options": [{"S_churn": 5.0}, {"S_churn": 9.0}, {"S_churn": 5.0, "S_noise": 1.01}],
}
# What `generate` and `sample_with_policy` take beside: samples do not depend on it, or it is in another column.
ELSEWHERE = {
    "denoiser": "the run, and ema",
    "shape": "the model's",
    "seeds": "n",
    "labels": "labels",
    "batch": None,
    "device": None,
    "progress": None,
    "dtype": "float32 for figures, which do not offer it",
}
PARTS = {"sigmas": "sampling", "solver": "sampling", "policy": "sampling", "solver_options": "options"}


def measured(model, labels=LABELS, **changes) -> Protocol:
    return protocol(Drawing(**BASE | changes), model, labels, CPU)


def test_every_field_of_a_drawing_has_another_value_here():
    assert set(OTHERS) == set(BASE) == {each.name for each in fields(Drawing)}


@pytest.mark.parametrize("draws", [generate, sample_with_policy])
def test_whatever_samples_takes_is_of_a_drawing_or_changes_no_sample(draws):
    takes = [PARTS.get(name, name) for name in inspect.signature(draws).parameters if name not in ELSEWHERE]
    assert set(takes) <= {each.name for each in fields(Drawing)}


# Which prompts the labels are numbers of, whose texts are hashed with the labels; what makes images of a model's latents.
OF_THE_MODEL = ("prompts", "autoencoder")


def test_what_measures_takes_is_of_a_drawing_or_a_column_or_changes_no_sample():
    takes = {PARTS.get(name, name) for name in inspect.signature(evaluate_denoiser).parameters}
    assert takes == {
        *BASE,
        "denoiser",
        "reference",
        "n",
        "ema",
        "batch",
        "device",
        "progress",
        "per_class",
        *OF_THE_MODEL,
    }


@pytest.mark.parametrize("name", OTHERS)
def test_another_value_is_another_protocol(model, name):
    made = [measured(model), *(measured(model, **{name: value}) for value in OTHERS[name])]
    if name == "seed":  # two seeds are two measurements of one thing; two generators are not
        assert made[0].record() | {"seed": 1} == made[1].record()
        made.pop(1)
    compared = [tuple(vars(each)[column] for column in compare.COMPARABLE) for each in made]
    assert len(set(compared)) == len(made)


def test_labels_and_precision_are_in_it_too(model):
    made = [measured(model), measured(model, LABELS.flip(0)), measured(model, None), measured(network().double())]
    made += [measured(quantized_copy(network(), kind, smallest=8)) for kind in ("bf16", "int8")]
    with torch.autocast("cpu", torch.bfloat16):
        made.append(measured(model))
        assert precision(model, CPU) == "bfloat16"
    assert len(set(made)) == len(made)
    assert made[0].precision == "float32"


def test_what_says_nothing_without_guidance_is_left_out(model):
    plain = measured(model, guidance=1.0, guide=None, interval=(0.0, math.inf))
    assert measured(model, guidance=1.0) == plain
    assert (plain.guide, plain.interval, plain.options) == (None, None, None)


def test_equal_drawings_have_equal_protocols_whatever_computes_them(model):
    again = {"sampling": choose(None, "heun", 3), "guide": network(1)}
    assert measured(model, **again) == measured(network()) == measured(model)
    assert measured(model, sampling=policy()) == measured(model, sampling=policy())


@pytest.mark.parametrize("solver", ["heun", "euler", "dpmpp_2m"])
@pytest.mark.parametrize("interval", [(0.0, math.inf), (0.1, 10.0), (0.0, 0.0)])
@pytest.mark.parametrize("options", [{}, {"S_churn": 5.0}])
def test_evaluations_are_counted_as_they_are_made(solver, interval, options):
    if options and solver != "heun":
        return
    calls = []

    def model(x, sigma, label=None):
        calls.append(float(sigma))
        return 0.5 * x

    drawing = Drawing(sampling=choose(None, solver, 5), guidance=2.0, interval=interval, options=options)
    sampling = drawing.sampling
    generate(
        model, (2,), range(4), torch.zeros(4, dtype=torch.int64), sigmas=sampling.sigmas, solver=solver, guidance=2.0,
        interval=interval, **options,
    )  # fmt: skip
    assert evaluations(drawing, takes_scale=False) == len(calls)


def test_the_columns_are_the_protocols_fields_and_compare_takes_all_but_the_seed():
    names = tuple(each.name for each in fields(Protocol))
    assert names == metrics_columns.PROTOCOL
    assert set(compare.COMPARABLE) == set(names) - {"seed"}
    assert set(names) < set(compare.HEADER)


def test_figures_go_out_with_what_they_were_measured_with(model, reference):
    row = evaluate_denoiser(
        model, reference, 40, ema="none", S_churn=5.0, **{k: BASE[k] for k in ("guidance", "guide")}
    )[0]
    found = row.protocol
    assert (found.n, found.guidance, found.options, found.ema) == (40, 2.0, "S_churn=5", "none")
    assert found.nfe == 2 * 35
    assert found.sigmas.startswith("80-0.002 ")
    other = evaluate_denoiser(model, reference, 40, sampling=policy(), guidance=2.0)[0].protocol
    assert other.steps is None
    assert other.nfe > 2
    with pytest.raises(ValueError, match="S_churn"):
        evaluate_denoiser(model, reference, 40, sampling=policy(), S_churn=5.0)


def test_every_setting_of_the_command_line_reaches_what_is_drawn():
    """A setting that is none of these would be measured with, and in no protocol."""
    of_the_drawing = {"solver", "steps", "grid", "levels", "schedule", "sigma_min", "sigma_max", "churn"}
    of_the_drawing |= {"guidance", "guide", "interval", "seed"}
    assert {each.name for each in fields(SamplerSettings)} == of_the_drawing | {"batch", "device"}
