"""What starts from another model, on two processes: each network whole, and in shards."""

from pathlib import Path

import forked
import torch
from model_files import weights


def trains_as_one_from(start: str, train, *words: str) -> None:
    """The run of this `model.start` has on two processes the weights of one, and says once what it started from."""
    words = (*words, f"model.start={start}")
    two = {"ddp": "auto", "shards": "model_parallel"}
    one = weights(train("one", *words))
    text = Path("one.yaml").read_text()
    for name, strategy in two.items():
        Path(f"{name}.yaml").write_text(text.replace("trainer: {", f"trainer: {{strategy: {strategy}, "))
    done, _ = forked.run_two("train", *(f"{name}.yaml" for name in two), *words, "trainer.devices=2")
    assert done.stdout.count(f"model.start: the weights of {start} after 128 images") == len(two)
    for name in two:
        there = weights(Path("runs") / name)
        assert there.keys() == one.keys()
        for key, value in one.items():
            torch.testing.assert_close(there[key], value, rtol=1e-4, atol=1e-5)
