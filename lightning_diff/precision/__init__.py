"""Low-precision copies of a network for exploration, with weights that are replaced in place.

    copy = quantized_copy(net, "nvfp4")      built once; may be compiled
    refresh(copy, net)                       net's present weights, rounded into the tensors that are there
    print(report(copy, net))                 what was quantised, how, and with what error

    nvfp4   E2M1 in blocks of 16, weights and activations; emulated everywhere but on Blackwell
    fp8     E4M3 with a scale for each row; emulated on CPUs and on GPUs before compute capability 8.9
    int8    symmetric, with a scale for each row; a kernel on CPUs and GPUs alike
    bf16    autocast

Emulation has the format's numbers and none of its speed; `report` says which it is, and `headline` does in a line.
"""

from .copies import LowPrecision, quantized_copy, refresh
from .formats import fp8_round, int8_round, nvfp4_round
from .kernels import Kind
from .report import LayerReport, Report, headline, report

__all__ = [
    "Kind",
    "LayerReport",
    "LowPrecision",
    "Report",
    "fp8_round",
    "headline",
    "int8_round",
    "nvfp4_round",
    "quantized_copy",
    "refresh",
    "report",
]
