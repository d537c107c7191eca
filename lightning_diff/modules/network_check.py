"""Whether a network returns what a denoiser needs, and has the derivative that a training takes.

Found by one call on shapes alone, or with one example, before anything is trained or written.
"""

import copy
import re
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .. import tangent
from ..condition import AnyCondition, blank
from ..denoiser import Denoiser
from ..foundation.errors import UserError

HOW = "it is called as net(x, c_noise, label) and returns a tensor like x; docs/extending.md shows how to wrap another kind"

OWN = f"{__name__.partition('.')[0]}.nets."  # networks whose forward mode the tests try
# In what torch says of a derivative that it lacks.
FORWARD_MODE = re.compile(r"forward[- ](mode )?AD|forward[- ]mode|\bjvp\b")

NO_TANGENT = "has no tangent"  # in what `tangent.jvp` says of a network that detaches


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


def refuse_one_shape(denoiser: Denoiser, shapes: Iterable[Sequence[int]], num_classes: int) -> None:
    """UserError for a network that cannot be called with every one of the shapes that images in buckets have.

    Args:
        denoiser: around the network, which takes one of them, see `refuse_unfit_network`.
        shapes: of an example of each bucket.
        num_classes: 0 for none.
    """
    for shape in shapes:
        try:
            refuse_unfit_network(denoiser, shape, num_classes)
        except UserError as error:
            raise UserError(
                f"data.buckets: with examples of shape {tuple(shape)}, {error}; leave data.buckets out, or take a network of any "
                "height and width, such as nets.UNet or nets.DiT"
            ) from error


def refuse_beyond(images: Tensor, bounds: tuple[float, float]) -> None:
    """UserError for examples that a denoiser with these bounds cannot give, by more than a thousandth of the range."""
    low, high = float(images.min()), float(images.max())
    slack = 1e-3 * (bounds[1] - bounds[0])
    if not (low >= bounds[0] - slack and high <= bounds[1] + slack):
        raise UserError(
            f"model.bounds: the first examples go from {low:.3g} to {high:.3g}, beyond {bounds[0]:g} to {bounds[1]:g}; give the "
            "range of the data, or leave it out"
        )


def refuse_no_forward_mode(
    denoiser: Denoiser, shape: Sequence[int], num_classes: int, device: torch.device | str
) -> None:
    """UserError for a network that torch has no forward-mode derivative of: attention kernels, functions without a jvp.

    It is tried on shapes alone. Which kernel runs depends on the device, so that a network other than our own is tried there
    with one example, too, unless its weights have no values to begin with. What fails for another reason is left to
    `refuse_unfit_network`.

    Args:
        denoiser: around the network, which stays as it is, as everybody's random numbers do.
        shape: of one example.
        num_classes: 0 for none.
        device: that trains.
    """
    net = denoiser.net
    weights = dict([*net.named_parameters(), *net.named_buffers()])
    is_own = type(net).__module__.startswith(OWN)
    places = (
        [torch.device("meta")] if is_own or any(weight.is_meta for weight in weights.values()) else ["meta", device]
    )
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place in places:
            try:
                _derive(net, weights, shape, num_classes, place)
            except Exception as error:
                if (reason := why_no_forward_mode(error)) is not None:
                    raise no_forward_mode(net, reason) from error


def no_forward_mode(net: nn.Module, reason: str) -> UserError:
    """The refusal of a network without a forward-mode derivative."""
    return UserError(
        f"model.derivative: {type(net).__name__} has no forward-mode derivative ({reason}); set model.derivative=central"
    )


def why_no_forward_mode(error: Exception) -> str | None:
    """What torch, or `tangent.jvp`, says of a derivative that it lacks, in one line; None for any other error."""
    is_of_torch = isinstance(error, RuntimeError) and FORWARD_MODE.search(str(error))  # NotImplementedError is one, too
    if is_of_torch or (isinstance(error, ValueError) and NO_TANGENT in str(error)):
        return str(error).splitlines()[0][:120].rstrip(". ")
    return None


def _derive(
    net: nn.Module, weights: dict[str, Tensor], shape: Sequence[int], num_classes: int, device: torch.device | str
) -> None:
    """One call in forward mode of a copy that shares the weights, on this device."""
    shared = copy.deepcopy(net, {id(weight): weight for weight in weights.values()}).eval()
    there = {
        name: weight.detach().to(device, copy=name not in dict(net.named_parameters()))
        for name, weight in weights.items()
    }
    x, c_noise, label = _inputs(net, shape, num_classes, device)

    def output(x: Tensor, c_noise: Tensor) -> Tensor:
        called: Tensor = torch.func.functional_call(shared, there, (x, c_noise, label))
        return called

    with torch.device(device):
        tangent.jvp(output, (x, c_noise), (torch.ones_like(x), torch.ones_like(c_noise)))


def _check(net: nn.Module, shape: Sequence[int], num_classes: int) -> None:
    weights = [*net.parameters(), *net.buffers()]
    try:
        empty = _without_values(net, weights)
        with torch.device("meta"):
            output: object = empty(*_inputs(net, shape, num_classes, "meta"))
    except Exception as error:
        if any(weight.is_meta for weight in weights):
            return
        device = weights[0].device if weights else torch.device("cpu")
        try:
            real = copy.deepcopy(net).eval()
        except Exception:  # of what cannot be copied nothing is known
            return
        try:
            output = real(*_inputs(net, shape, num_classes, device))
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


def _inputs(
    net: nn.Module, shape: Sequence[int], num_classes: int, device: torch.device | str
) -> tuple[Tensor, Tensor, AnyCondition | None]:
    """One example, its noise level, and its condition or label where there are any."""
    label = blank(net, num_classes, 1, device)
    return torch.zeros(1, *shape, device=device), torch.zeros(1, device=device), label
