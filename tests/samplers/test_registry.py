"""Whatever takes a solver's name takes every one that there is, and refuses any other with the nearest, before any work is done."""

import re
from typing import get_args

import pytest
import torch

from lightning_diff import samplers, schedules
from lightning_diff.artifacts.schedule import Schedule, load_schedule, save_schedule
from lightning_diff.artifacts.step_policy import LearnedPolicy, load_step_policy, save_step_policy
from lightning_diff.cli.app import main
from lightning_diff.foundation.binding import bind, construct
from lightning_diff.foundation.errors import UserError
from lightning_diff.oracle import Gaussian
from lightning_diff.samplers import CHURNED, ODE_SOLVERS, SOLVERS, OdeSolverName, SolverName, named, nfe, ode_solver
from lightning_diff.samplers.generate import generate
from lightning_diff.samplers.solver import count_calls
from lightning_diff.schedules.art import art
from lightning_diff.schedules.costs import local_error
from lightning_diff.schedules.optimised import optimised
from lightning_diff.schedules.sampling import choose
from lightning_diff.schedules.search import METHODS

HOME = "lightning_diff."
ONE = Gaussian(torch.zeros(1, dtype=torch.float64), 0.25)
ANY = {  # what takes any solver in a recipe
    "SampleGrid": {"_target_": HOME + "callbacks.SampleGrid"},
    "Evaluate": {"_target_": HOME + "callbacks.Evaluate"},
}
OF_THE_ODE = {  # what takes any deterministic one
    "Plan": {"_target_": HOME + "rollouts.plan.Plan"},
    "StepPolicy": {"_target_": HOME + "schedules.StepPolicy", "max_steps": 4},
    "StepError": {"_target_": HOME + "schedules.environments.StepError"},
    "EndPoint": {"_target_": HOME + "schedules.environments.EndPoint", "substeps": 4},
    "Outcome": {
        "_target_": HOME + "schedules.environments.Outcome",
        "reward": {"_target_": "test_registry.Brightness"},
    },
}
TAKERS = [(name, solver) for name in ANY for solver in SOLVERS]
TAKERS += [(name, solver) for name in OF_THE_ODE for solver in ODE_SOLVERS]


class Brightness:
    def __call__(self, images, label):
        return images.flatten(1).mean(1)


def model(x, sigma, label=None):
    return ONE(x, sigma)


def noise(n):
    return torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def built(name, solver):
    return construct(bind((ANY | OF_THE_ODE)[name] | {"solver": solver}, object, name))


@pytest.mark.parametrize(("name", "solver"), TAKERS)
def test_recipes_may_name_it_and_it_is_used(name, solver):
    made = built(name, solver)
    if name in ANY:
        sampling = choose(None, **made.sampler)
        assert sampling.solver == solver
    elif name == "Plan":
        assert made.sampling(4).solver == solver
    elif name == "StepPolicy":
        drawn = made.sample(model, noise(3))
        assert drawn.x.isfinite().all()
        assert made.evaluations(drawn.steps).equal(SOLVERS[solver].calls(drawn.steps))
    else:
        learner = schedules.StickBreaking(4, 3.0, environment=made, start="angle")
        seen = learner.rollout(model, noise(3), torch.zeros(3, 4))
        assert (seen.outcome - seen.cost.sum(1)).isfinite().all()


@pytest.mark.parametrize("name", [*ANY, *OF_THE_ODE])
def test_recipes_that_name_another_are_refused_with_the_nearest(name):
    with pytest.raises(UserError, match=rf"{name}\.solver: 'huen' .*mean heun"):
        built(name, "huen")


@pytest.mark.parametrize("name", OF_THE_ODE)
def test_what_solves_the_ode_does_not_take_a_consistency_models_sampler(name):
    with pytest.raises(UserError, match=rf"{name}\.solver"):
        built(name, "consistency")


@pytest.mark.parametrize("solver", SOLVERS)
def test_by_name_it_is_the_public_function_and_makes_as_many_calls_as_it_says(solver):
    sigmas, x = schedules.karras(6), 80 * noise(3)
    record = SOLVERS[solver]
    drawn, again = (
        solve(model, x, sigmas, generator=torch.Generator().manual_seed(1))
        for solve in (named(solver), getattr(samplers, solver))
    )
    assert torch.equal(drawn, again)
    for n in (1, 2, 6):
        grid = schedules.karras(n)
        assert record.calls(n) == nfe(solver, grid) == count_calls(record, torch.zeros(1, 1), grid)
    assert generate(model, (1,), range(2), sigmas=sigmas, solver=solver).isfinite().all()
    assert ("S_churn" in record.sample.__annotations__) == record.takes_churn == (solver in CHURNED)


@pytest.mark.parametrize("solver", ODE_SOLVERS)
def test_grids_are_found_for_it(solver):
    for grid in (
        art(model, noise(4), 3, solver=solver, nodes=8),
        optimised(model, noise(4), 3, solver=solver, iterations=2),
    ):
        samplers.check_sigmas(grid)
    for name in ("edm", "art_solver"):
        samplers.check_sigmas(METHODS[name](model, noise(4), 3, solver=solver))
    level = torch.tensor(2.0, dtype=torch.float64)
    assert local_error(model, noise(3), level, level / 2, solver).error.isfinite().all()


@pytest.mark.parametrize("solver", ODE_SOLVERS)
def test_files_keep_it(tmp_path, solver):
    save_schedule(tmp_path / "a.json", Schedule([80.0, 1.0, 0.0], "edm", solver, {}, "abc"))
    assert load_schedule(tmp_path / "a.json").solver == solver
    save_step_policy(tmp_path, LearnedPolicy(schedules.StepPolicy(solver=solver), {}, "abc"))
    assert load_step_policy(tmp_path).policy.solver == solver


@pytest.mark.parametrize(
    ("command", "solvers"), [("sample", SOLVERS), ("evaluate", SOLVERS), ("schedule", ODE_SOLVERS)]
)
def test_the_command_line_names_it(capsys, command, solvers):
    assert main([command, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    (listed,) = re.findall(r"--solver\s+\S+\s+(.*?) or (\w+)[;:]", said)
    assert [*listed[0].split(", "), listed[1]] == list(solvers)
    assert not re.search(r"\{(ode_)?solvers\}|\{churned\}", said)


def test_names_for_type_checks_are_the_registrys():
    assert get_args(SolverName) == tuple(SOLVERS)
    assert get_args(OdeSolverName) == tuple(ODE_SOLVERS)
    with pytest.raises(UserError, match="heun"):
        ode_solver("huen")
    with pytest.raises(UserError, match="euler"):
        ode_solver("consistency")
