"""The denoisers beside the one that reward fine-tuning trains: the old policy, the reference, and copies to sample with."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..nets import lora
from ..precision import quantized_copy, refresh


class Policies:
    """theta_old, theta_ref, and what samples with the weights of theta_old; none of them has gradients or dropout.

    Weights that do not train, such as those under adapters, and prompts are shared by all. Not a module itself, and so in no
    other's parameters and state.

    Args:
        trained: theta, where it will be trained; its weights are theta_old's first.
        reference: theta_ref, with the plain network.
        make_copy: of a denoiser and a kind of precision (see `precision.quantized_copy`).
    """

    def __init__(self, trained: Denoiser, reference: Denoiser, make_copy: Callable[..., nn.Module] = quantized_copy):
        shared: dict[int, nn.Module | nn.Parameter] = {
            id(weight): weight for weight in trained.net.parameters() if not weight.requires_grad
        }
        if trained.prompts is not None:
            shared[id(trained.prompts)] = trained.prompts
        self.trained = trained
        self.old = copy.deepcopy(trained, dict(shared)).eval().requires_grad_(False)
        self.reference = reference.eval().requires_grad_(False)
        self._is_adapted = lora.merged(trained.net.state_dict()).keys() != trained.net.state_dict().keys()
        self._plain = copy.deepcopy(reference, dict(shared)) if self._is_adapted else self.old
        self.make_copy = make_copy
        self._copies: dict[str, Denoiser] = {}
        self._compile: Callable[[nn.Module], None] | None = None
        self._stale = {"full"}  # those without the old policy's present weights

    def compile(self, network: Callable[[nn.Module], None]) -> None:
        """All of them by `network`, in place, those in low precision when they are made."""
        self._compile = network
        for policy in {id(each): each for each in (self.old, self.reference, self._plain)}.values():
            network(policy.net)

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
        """Name, theta's and theta_old's weight."""
        old = dict(self.old.net.named_parameters())
        for name, weight in self.trained.net.named_parameters():
            if weight.requires_grad:
                yield name, weight, old[name]

    @torch.no_grad()
    def follow(self, eta: float) -> None:
        """theta_old <- eta theta_old + (1 - eta) theta."""
        for _, weight, old in self._trainable():
            old.mul_(eta).add_(weight, alpha=1 - eta)
        self._old_changed()

    def state(self) -> dict[str, Tensor]:
        """theta_old's own weights: those that train."""
        return {name: old.detach() for name, _, old in self._trainable()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        for name, _, old in self._trainable():
            old.copy_(state[name])
        self._old_changed()

    def _old_changed(self) -> None:
        self._stale = {"full", *self._copies}

    def sampler(self, precision: str = "full", when_made: Callable[[Denoiser], None] = lambda made: None) -> Denoiser:
        """The old policy to sample with: a plain network of the present weights, refreshed in place where it is a copy.

        Args:
            precision: "full", or a kind of `precision.quantized_copy`.
            when_made: is called with a copy when it is first made, before it is compiled.
        """
        if self._is_adapted and "full" in self._stale:
            self._plain.net.load_state_dict(lora.merged(self.old.net.state_dict()))
            self._stale.discard("full")
        if precision == "full":
            return self._plain
        if precision not in self._copies:
            self._copies[precision] = self.make_copy(self._plain, precision)  # type: ignore[assignment]
            when_made(self._copies[precision])
            if self._compile is not None:
                self._compile(self._copies[precision].net)
        elif precision in self._stale:
            refresh(self._copies[precision], self._plain)
        self._stale.discard(precision)
        return self._copies[precision]
