import torch
from torch import nn

from lightning_diff.nets.frozen import Frozen


def test_what_is_frozen_is_no_part_of_the_module_and_stays_as_it_is():
    module, teacher = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    before = set(module.state_dict())
    module.teacher = Frozen(teacher)
    module.train().to(torch.float64)
    assert set(module.state_dict()) == before
    assert len(list(module.parameters())) == 2
    assert not teacher.training
    assert not any(weight.requires_grad for weight in teacher.parameters())
    assert teacher[0].weight.dtype == torch.float32


def test_a_function_is_held_as_it_is():
    held = Frozen(abs)
    held.to("cpu")
    assert held.value(-1) == 1
