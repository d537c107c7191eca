"""Whether torch can compile here, found by compiling something small before the first step."""

import torch


def why_not(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device (no C++ compiler, no Triton, a cache that cannot be written); None if it can."""
    try:
        with torch.no_grad():
            torch.compile(_sample)(torch.ones(16, device=device))
    except Exception as error:
        cause: BaseException = error
        while (deeper := getattr(cause, "inner_exception", None) or cause.__cause__) is not None:
            cause = deeper
        lines = str(cause).strip().splitlines()
        return lines[0].strip() if lines else type(cause).__name__
    return None


def _sample(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + x
