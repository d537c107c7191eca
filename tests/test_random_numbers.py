"""Random numbers come by address from `foundation/rng.py`; what draws without is listed here, with the reason."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
FILES = [
    path
    for folder in ("lightning_diff", "callbacks")
    for path in sorted((PACKAGE / folder).rglob("*.py"))
    if path.name != "rng.py" and "lightning_diff/callbacks" not in path.as_posix()
]
# What starts a generator, or brings one of its own.
STARTS = {"manual_seed", "manual_seed_all", "seed_everything", "default_rng", "RandomState", "Philox", "PCG64"}
# What draws from the generator it is given, and without one from torch's own.
DRAWS = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "bernoulli_", "multinomial",
    "normal", "normal_", "uniform_", "exponential_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_",
    "random_", "_standard_gamma", "poisson",
}  # fmt: skip

BY_ADDRESS = {
    "foundation/devices.py": "a device's own generator, which modules start at an address of 64 bits for dropout",
    "runs/build.py": "devices' generators, started at an address of 64 bits before the network is built",
}
INITIAL = "initial weights, from torch's generator, which `runs/build.py` has started at an address"
FROM_TORCH = {
    "nets/layers.py": INITIAL,
    "nets/lora.py": INITIAL,
    "nets/magnitude.py": INITIAL,
    "weighting/learned.py": INITIAL,
    "tangent/pointwise.py": "dropout, from torch's generator, which the training step has started at an address",
    "samplers/protocol.py": "a sampler that was given no generator",
}


def calls(path):
    """(name, whether a generator is given) of every call of a method or function of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if of != "rng":
                yield node.func.attr, any(keyword.arg == "generator" for keyword in node.keywords)


def place(path):
    return path.relative_to(PACKAGE).as_posix().removeprefix("lightning_diff/")


def test_generators_are_started_in_one_file():
    found = {place(path) for path in FILES for name, _ in calls(path) if name in STARTS}
    assert found == set(BY_ADDRESS)


def test_what_draws_without_a_generator_has_a_reason():
    found = {place(path) for path in FILES for name, given in calls(path) if name in DRAWS and not given}
    assert found == set(FROM_TORCH)


def test_neither_python_nor_numpy_draws():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "np.random" not in text
        assert "import random" not in text
        assert "from random" not in text
