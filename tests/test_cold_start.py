"""What an import or a command may load: nothing heavy that it does not use, or its first step comes late.

One process forks for each entry, first with nothing imported and then with torch, so that torch is imported once. What an entry
loads beyond that is held against the table. benchmarks/cold_start.py says what each costs.
"""

import json
import subprocess
import sys

import pytest

from lightning_diff.cli import app as cli

pytestmark = pytest.mark.whole

HEAVY = """
    PIL beartype datasets lightning matplotlib matplotlib.pyplot numpy omegaconf pandas pyarrow rich safetensors scipy sklearn
    sympy tensorboard torch torch._dynamo torch._inductor torch.distributed.checkpoint torch.distributed.fsdp torchao
    torchmetrics transformers wandb
"""

# Entry, a module or a command line -> what it may load.
WITH_NOTHING = {
    "lightning_diff.cli.app": "",
    "lightning_diff.artifacts": "",
    "train --help": "",
    "data encode --help": "",
    "new --from digits_edm copy.yaml": "",
    "init begun": "",
    "recipes": "",
    "describe UNet": "",
    "runs": "omegaconf",
    "compare RUN RUN": "omegaconf numpy matplotlib PIL",
}
REFUSED = {  # with exit code 2
    "sample RUN --nn 3": "",
    "report no_such_run": "",
    "train digits_edm model.nett=3": "omegaconf",
}
WITH_TORCH = {
    "lightning_diff.denoiser": "",
    "lightning_diff.noise": "",
    "lightning_diff.nets": "",
    "lightning_diff.samplers.generate": "",
    "lightning_diff.artifacts.model": "safetensors",
    "lightning_diff.data": "PIL safetensors",
    "lightning_diff.runs.export": "safetensors omegaconf",
    "doctor RUN": "safetensors omegaconf",
    "sample RUN --n 1 --steps 1": "safetensors PIL",
}

PROGRAM = """
import importlib, json, os, sys

def of(entry):
    "Exit code, and what is loaded that was not."
    before, (reads, writes) = set(sys.modules), os.pipe()
    if not os.fork():
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        code, words = 0, entry.split()
        if entry.startswith("lightning_diff"):
            importlib.import_module(entry)
        else:
            from lightning_diff.cli import main
            code = main(words)
        os.write(writes, json.dumps([code, sorted(set(sys.modules) - before)]).encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        return json.loads(pipe.read() or "null")

without, with_torch = json.loads(sys.argv[1])
loaded = {entry: of(entry) for entry in without}
import torch
loaded |= {entry: of(entry) for entry in with_torch}
print(json.dumps(loaded))
"""


def test_an_entry_loads_what_it_uses_and_nothing_heavy_beside(train):
    run = str(train("run"))
    with_nothing, refused, with_torch = (
        {entry.replace("RUN", run): set(allowed.split()) for entry, allowed in table.items()}
        for table in (WITH_NOTHING, REFUSED, WITH_TORCH)
    )
    groups = json.dumps([[*with_nothing, *refused], [*with_torch]])
    done = subprocess.run([sys.executable, "-c", PROGRAM, groups], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded, heavy = json.loads(done.stdout), set(HEAVY.split())
    assert {entry: result and result[0] for entry, result in loaded.items()} == {
        entry: 2 if entry in refused else 0 for entry in loaded
    }
    allowed = with_nothing | refused | with_torch
    assert {
        entry: too_much for entry, (_, names) in loaded.items() if (too_much := (heavy & {*names}) - allowed[entry])
    } == {}


def test_every_command_that_reads_and_does_not_train_is_in_the_table():
    named = {entry.split()[0] for table in (WITH_NOTHING, REFUSED, WITH_TORCH) for entry in table}
    commands = {command.callback.__name__.rstrip("_") for command in cli.app.registered_commands}
    assert commands - named == {
        "resume",
        "evaluate",
        "schedule",
        "export",
        "import",
        "show",
    }  # which train, measure or build a module
