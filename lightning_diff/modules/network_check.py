"""Whether a network returns what a denoiser needs, found by one call on shapes alone, before anything is trained or written."""

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..foundation.errors import UserError

HOW = "it is called as net(x, c_noise, label) and returns a tensor like x; docs/extending.md shows how to wrap another kind"


def refuse_unfit_network(denoiser: Denoiser, shape: Sequence[int], num_classes: int) -> None:
    """UserError for a network whose output is no tensor of the shape of its input, or which cannot be called so.

    What is called is a copy on the meta device, where tensors have shapes and no values. A network that looks at values, or makes
    tensors of its own, fails there through no fault of its own: a real copy is then called with one example, unless the weights
    have no values to begin with.

    Args:
        denoiser: around the network; its weights, buffers and mode, and everybody's random numbers, stay as they are.
        shape: of one example.
        num_classes: 0 for none.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when it trains
        _check(denoiser.net, shape, num_classes)


def _check(net: nn.Module, shape: Sequence[int], num_classes: int) -> None:
    weights = [*net.parameters(), *net.buffers()]
    try:
        empty = _without_values(net, weights)
        with torch.device("meta"):
            output: object = empty(*_inputs(shape, num_classes, "meta"))
    except Exception as error:
        if any(weight.is_meta for weight in weights):
            return
        device = weights[0].device if weights else torch.device("cpu")
        try:
            real = copy.deepcopy(net).eval()
        except Exception:  # of what cannot be copied nothing is known
            return
        try:
            output = real(*_inputs(shape, num_classes, device))
        except UserError:
            raise
        except (torch.OutOfMemoryError, MemoryError):  # is told with what to do when it trains
            return
        except Exception as failure:
            what = " ".join(str(failure).split())[:200] or str(error)
            raise UserError(
                f"model.net: {type(net).__name__} cannot be called: {type(failure).__name__}: {what}; {HOW}"
            ) from failure
    if not isinstance(output, Tensor):
        raise UserError(f"model.net: {type(net).__name__} returned a {type(output).__name__}; {HOW}")
    if tuple(output.shape) != (1, *shape):
        raise UserError(
            f"model.net: {type(net).__name__} returned shape {tuple(output.shape)} for {(1, *shape)}; {HOW}"
        )


def _without_values(net: nn.Module, weights: Sequence[Tensor]) -> nn.Module:
    """A copy on the meta device, for which no weight is copied; what it keeps of a call is not kept by the network."""
    known: dict[int, object] = {}
    for weight in weights:
        empty = weight.detach().to("meta")
        known[id(weight)] = nn.Parameter(empty, weight.requires_grad) if isinstance(weight, nn.Parameter) else empty
    return copy.deepcopy(net, known).eval()


def _inputs(shape: Sequence[int], num_classes: int, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor | None]:
    """One example, its noise level, and its label where there are classes."""
    label = torch.zeros(1, dtype=torch.int64, device=device) if num_classes else None
    return torch.zeros(1, *shape, device=device), torch.zeros(1, device=device), label
