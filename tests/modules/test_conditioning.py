"""Nothing that the data supply goes missing on the way to the network without a word."""

from pathlib import Path

import pytest
import torch
from messages import tells
from torch import nn

from lightning_diff.data import Augment, Toy
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules import conditioning
from lightning_diff.nets import UNet

UNET = "{_target_: lightning_diff.nets.UNet, channels: 8, channel_mult: [1], num_blocks: 1, attention: []%s}"
DIGITS = "data={_target_: lightning_diff.data.Digits, batch_size: 16%s}"
AUGMENT = ", augment: {_target_: lightning_diff.data.Augment}"
SHORT = "trainer.max_steps=1"


class Deaf(nn.Module):
    """Takes a label and nothing else, and has no attributes to tell."""

    def forward(self, x, c_noise, label=None):
        return x


class Listening(Deaf):
    def forward(self, x, c_noise, label=None, **conditioning):
        return x


def small(**more) -> UNet:
    return UNet((1, 8, 8), channels=8, channel_mult=(1,), num_blocks=1, attention=(), **more)


def told(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def data(classes: int, augment: Augment | None = None) -> Toy:
    found = Toy(batch_size=8, n=64, conditional=classes > 0)
    found.setup()  # which would refuse to augment points of the plane
    found.augment = augment
    return found


@pytest.mark.parametrize(
    ("net", "dim"), [(Deaf(), 0), (Listening(), None), (small(), 0), (small(augment_dim=5), 5)], ids=str
)
def test_whether_a_network_takes_the_vector_is_known_by_its_attribute_or_signature(net, dim):
    assert conditioning.augment_dim(net) == dim


def test_augmentation_that_the_network_is_not_told_of_is_refused(train):
    for net in (Deaf(), small()):
        message = told(lambda net=net: conditioning.refuse_unfit(net, data(8, Augment()), 8))
        assert tells(message, f"data.augment: ... no input ... augment_dim={Augment().dim}")
    other = told(lambda: conditioning.refuse_unfit(small(augment_dim=5), data(8, Augment()), 8))
    assert tells(other, f"model.net.augment_dim: ... 5 ... {Augment().dim}")
    for net in (Listening(), small(augment_dim=Augment().dim)):
        conditioning.refuse_unfit(net, data(8, Augment()), 8)
    conditioning.refuse_unfit(small(augment_dim=5), data(8), 8)  # without augmentation it is told zeros
    message = told(lambda: train("run", f"model.net={UNET % ', augment_dim: 0'}", DIGITS % AUGMENT, SHORT))
    assert tells(message, "... run.yaml: data.augment: ... augment_dim")
    assert not Path("runs/run").exists()


def test_a_student_of_a_teacher_that_knows_no_augmented_images_gets_none(train):
    student = "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher, warmup: 64}"
    train("teacher", f"model.net={UNET % ''}", DIGITS % "", SHORT)
    assert tells(
        told(lambda: train("student", student, DIGITS % AUGMENT, SHORT)),
        "... student.yaml: data.augment: ... augment_dim",
    )
    train("teacher", f"model.net={UNET % ', augment_dim: 9'}", DIGITS % "", SHORT, "resume=never")
    message = told(lambda: train("student2", student, DIGITS % AUGMENT, SHORT))
    assert tells(message, "data.augment: runs/teacher was trained without")


def test_labels_beyond_the_networks_are_refused_and_unused_ones_said():
    assert tells(told(lambda: conditioning.refuse_unfit(Deaf(), data(8), 4)), "model.num_classes: 4 ... 8 classes")
    assert tells(told(lambda: conditioning.refuse_unfit(Deaf(), data(0), 8)), "model.num_classes: 8 ... no labels")
    for net, num_classes, words in (
        (small(), 8, "the network ... 8"),
        (Deaf(), 0, "the module ... 8"),
        (Deaf(), 9, "9"),
    ):
        (remark,) = conditioning.remarks(net, data(8), num_classes)
        assert tells(remark, f"model: ... {words}")
    assert not [*conditioning.remarks(Deaf(), data(8), 8), *conditioning.remarks(small(), data(0), 0)]


def test_a_run_says_once_what_it_does_not_use(train, capsys):
    train("run", "model.net.num_classes=0", SHORT)
    lines = capsys.readouterr().out.splitlines()
    assert sum(tells(line, "model: the network has no classes") for line in lines) == 1


def test_reward_fine_tuning_says_that_it_does_not_flip(train, capsys):
    train("start", f"model.net={UNET % ''}", DIGITS % "", SHORT)
    train(
        "reward",
        "model={_target_: lightning_diff.AlignmentModule, model: runs/start, reward: {_target_: lightning_diff.rewards.Ink}, "
        "plan: {_target_: lightning_diff.rollouts.Plan, prompts: 2, pool: 2, keep: 2, steps: 2}, "
        "loss: {_target_: lightning_diff.rollouts.RewardLoss, levels: 1}}",
        DIGITS.replace("16", "4") % f", flip: true{AUGMENT}",
        SHORT,
    )
    out = capsys.readouterr().out
    assert "data.flip: is not used" in out
    assert "data.augment: is not used" in out


@pytest.mark.parametrize("dim", [0, 5])
def test_every_weight_of_a_network_has_a_gradient_with_nothing_but_noise_levels(dim):
    """Plain DDP waits for each: a network trained with labels, augmentation and scales goes on without any of them."""
    net = small(num_classes=3, augment_dim=dim, guided=True)
    net(torch.randn(2, 1, 8, 8), torch.randn(2)).sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())
    if not dim:
        with pytest.raises(ValueError, match=r"no input for an augmentation vector.*augment_dim=4"):
            net(torch.randn(2, 1, 8, 8), torch.randn(2), augment=torch.zeros(2, 4))
