"""Without a compiler training goes on without compiling, and says so before the first step."""

import pytest
import torch
from messages import tells

from lightning_diff.modules import Compile


class NoCompiler(RuntimeError):
    """As inductor raises it: wrapped twice."""


def failing(function, **options):
    def compiled(x):
        try:
            raise NoCompiler("No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")
        except NoCompiler as error:
            raise RuntimeError("backend='inductor' raised:") from error

    return compiled


def test_the_reason_is_the_innermost_errors_first_line(monkeypatch):
    monkeypatch.setattr(torch, "compile", failing)
    assert Compile().why_not(torch.device("cpu")) == "No working C++ compiler found"
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    assert Compile().why_not(torch.device("cpu")) is None


def test_training_goes_on_without_and_trains_the_same(train, state, monkeypatch):
    eager = train("eager")
    monkeypatch.setattr(torch, "compile", failing)
    with pytest.warns(UserWarning, match=r"model\.compile") as warned:
        without = train("without", "model.compile=true")
    assert [tells(str(each.message), "model.compile: ... No working C++ compiler found ...") for each in warned] == [
        True
    ]
    for name, value in state(eager)["state_dict"].items():
        assert torch.equal(value, state(without)["state_dict"][name]), name


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu()


class Stack(torch.nn.Module):
    """One block."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block()])

    def forward(self, x):
        return self.blocks[0](x)


def called_with(net, shapes):
    for size in range(4, 4 + shapes):
        x = torch.zeros(1, 1, size, 4)
        net(x).sum().backward()
        with torch.no_grad():
            net(x)


@pytest.mark.whole
def test_blocks_are_compiled_for_the_shape_of_every_bucket():
    limits = {"recompile_limit": 8, "accumulated_recompile_limit": 256, "fail_on_recompile_limit_hit": True}
    for expects in (True, False):
        torch._dynamo.reset()
        with torch._dynamo.config.patch(limits):
            net, how = Stack(), Compile(backend="eager")
            if expects:
                how.expect(net, 12)
            how.network(net)
            if expects:
                called_with(net, 12)
            else:
                with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
                    called_with(net, 12)
    torch._dynamo.reset()
