"""At theta = theta_old the old policy and the new one are one policy, in every precision: both are computed alike."""

from contextlib import nullcontext

import pytest
import torch

from lightning_diff.artifacts import load_denoiser, load_weights, save_denoiser
from lightning_diff.denoiser import Denoiser
from lightning_diff.modules import AlignmentModule
from lightning_diff.modules.reward_epoch import RewardEpoch
from lightning_diff.nets import DiT, UNet
from lightning_diff.nets.lora import LoRA
from lightning_diff.nets.lora import adapted as adapted_state
from lightning_diff.rollouts import Plan, RewardLoss
from lightning_diff.rollouts.policies import Policies

SHAPE, CLASSES = (1, 8, 8), 3
NETS = {
    "unet": (UNet, {"channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attention": [8]}),
    "dit": (DiT, {"width": 32, "depth": 2, "heads": 2}),
}
LOSSES = {
    "nft": RewardLoss(name="nft", levels=3, options={"kl": 0.1}),
    "advantage_weighted": RewardLoss(name="advantage_weighted", levels=3),
    "policy_gradient": RewardLoss(name="policy_gradient", levels=3, eta=0.7),
}
AUTOCAST = {"32-true": nullcontext, "bf16-mixed": lambda: torch.autocast("cpu", torch.bfloat16)}
PLAN = Plan(prompts=2, pool=4, keep=4, steps=4, preview_steps=None, batch=8)


def bright(images, label):
    return images.flatten(1).mean(1)


@pytest.fixture(params=NETS)
def start(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind, arguments = NETS[request.param]
    arguments = {"shape": list(SHAPE), "num_classes": CLASSES, **arguments}
    net = kind(**arguments)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    node = {"_target_": f"lightning_diff.nets.{kind.__name__}", **arguments}
    save_denoiser("start", Denoiser(net, 0.5), node, shape=SHAPE, num_classes=CLASSES)
    return "start"


def step(start, objective, precision, adapted=False, channels_last=False, moved=True):
    """One batch of an epoch: the module, what its loss was given, and what that gave.

    Args:
        moved: theta and theta_old have been trained away from the reference; else all three are one.
    """
    module = AlignmentModule(
        start,
        reward=bright,
        loss=LOSSES[objective],
        plan=PLAN,
        lora=LoRA(rank=4, alpha=8.0) if adapted else None,
        num_classes=CLASSES,
        channels_last=channels_last,
    )
    reference, own = load_denoiser(start), module.denoiser
    load_weights(own.net, adapted_state(reference.net.state_dict(), own.net), start)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for each in (own, reference):
        each.to(memory_format=layout)
    module.policies = Policies(own.eval(), reference)
    if moved:
        with torch.no_grad():
            for weight in own.parameters():
                if weight.requires_grad:
                    weight.add_(torch.randn_like(weight), alpha=0.05)
        module.policies.follow(0.0)
    module.seed, autocast = 3, AUTOCAST[precision]
    module.reward_epoch = RewardEpoch(
        policies=module.policies,
        reward=bright,
        classes=range(CLASSES),
        shape=SHAPE,
        seed=3,
        eta=module.loss.eta if module.loss.is_chain else None,
        autocast=autocast,
    )
    found = []
    plain = RewardLoss.__call__

    def watched(self, batch, *estimates):
        found.append((estimates, plain(self, batch, *estimates)))
        return found[-1][1]

    with pytest.MonkeyPatch.context() as patch, autocast():
        patch.setattr(RewardLoss, "__call__", watched)
        for first in range(0, module.epoch_images, 6):  # of another size than the rollout's batches
            stream = {"position": torch.arange(first, first + 6), "noise": torch.randn(6, *SHAPE)}
            module.training_step(module.prepare_batch(stream), 0)
    return found


PAIRS = [  # every two choices together, once
    ("nft", "32-true", False, False),
    ("nft", "bf16-mixed", True, True),
    ("advantage_weighted", "32-true", True, False),
    ("advantage_weighted", "bf16-mixed", False, True),
    ("policy_gradient", "32-true", False, True),
    ("policy_gradient", "bf16-mixed", True, False),
]


@pytest.mark.parametrize(("objective", "precision", "adapted", "channels_last"), PAIRS)
def test_old_and_new_are_equal_to_the_bit(start, objective, precision, adapted, channels_last):
    for (x_hat, old, reference, _), result in step(start, objective, precision, adapted, channels_last):
        assert old is None or torch.equal(x_hat, old)
        assert not hasattr(result, "ratio") or torch.equal(result.ratio, torch.ones_like(result.ratio))
        assert (old is None) == (objective == "policy_gradient")
        assert not torch.equal(x_hat, reference)  # that the weights have moved


@pytest.mark.parametrize(("objective", "precision", "adapted", "channels_last"), PAIRS)
def test_reference_and_new_are_equal_to_the_bit_before_training(start, objective, precision, adapted, channels_last):
    for (x_hat, _, reference, _), result in step(start, objective, precision, adapted, channels_last, moved=False):
        assert torch.equal(x_hat, reference)
        assert not result.kl.any()
