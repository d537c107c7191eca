"""The checklist for a GPU: what cannot be known without one, measured in one command.

    python -m benchmarks.gpu [--parts parity,training,...] [--out gpu_checklist] [--device cuda] [--small]

Writes gpu.json and gpu.md, a table, into --out. Run it in the repository, on a machine that does nothing else. Most of the time
goes into compiling. Parts:

    parity      outputs, gradients and sCM tangents on the device against a CPU, in float32 without TF32 and in bfloat16
    training    images/s, MFU, peak memory and the time to the first step, of whole runs, by precision and what is compiled
    memory      what `train --dry-run` estimates against what the allocator had at most
    consistency what a step of sCM costs over one of diffusion, with its derivative in forward mode
    sampling    images/s of heun and of a consistency model's two steps, by precision and compiled
    precision   fp8, nvfp4 and int8 kernels against their emulation, and their speed against bfloat16
    feeding     images/s that the loader makes, and how long the host is held up by copies, pinned or not

A part that cannot run says why; without a CUDA device all of them do, and the command ends with 0. It ends with 1 if something is
off or failed. `--device cpu --small` goes through the same code with tiny networks, which is how it is tested: its figures mean
nothing.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from . import consistency, feeding, memory, parity, precision, sampling, training
from .rows import Row, Setting, Skip, table

PARTS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "parity": parity.rows,
    "training": training.rows,
    "memory": memory.rows,
    "consistency": consistency.rows,
    "sampling": sampling.rows,
    "precision": precision.rows,
    "feeding": feeding.rows,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("gpu_checklist"))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="tiny networks, few steps")
    options = parser.parse_args(arguments)
    chosen = options.parts.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    setting = Setting(torch.device(options.device), options.small)
    found: list[Row] = []
    for part in chosen:
        for row in _rows(part, setting):
            found.append(row)
            print(row, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    about = _machine(setting)
    record = {"machine": about, "rows": [asdict(row) for row in found]}
    (options.out / "gpu.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "gpu.md").write_text(table(about, found))
    print(f"{options.out / 'gpu.json'} and {options.out / 'gpu.md'} are there")
    return int(any(row.status in ("off", "failed") for row in found))


def _rows(part: str, setting: Setting) -> Iterator[Row]:
    """A part's rows; one that says why, where it ends early."""
    if setting.device.type == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        yield Row(part, "all", status="skipped", note=f"no CUDA device is there (torch {torch.__version__}, {built})")
        return
    try:
        yield from PARTS[part](setting)
    except Skip as reason:
        yield Row(part, "all", status="skipped", note=str(reason))
    except Exception as error:  # the other parts still have something to say
        yield Row(part, "all", status="failed", note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _machine(setting: Setting) -> dict[str, object]:
    about: dict[str, object] = {"torch": torch.__version__, "python": platform.python_version(), "small": setting.small}
    if setting.device.type != "cuda" or not torch.cuda.is_available():
        return about | {"device": platform.processor() or platform.machine()}
    properties = torch.cuda.get_device_properties(0)
    return about | {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


if __name__ == "__main__":
    sys.exit(main())
