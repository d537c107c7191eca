"""How long torch compiles before the first training step: the network's blocks, one graph for each kind, against the whole network.

    OMP_NUM_THREADS=1 python benchmarks/compile_time.py [--nets dit,unet] [--device cuda]

Each in a process of its own with an empty cache. The time is CPU time, of the process and of the compilers that it starts, of the
first step (forward and backward), less that of a step without compiling. Prints it with the number of graphs, and the time of a
step afterwards. On a GPU it is Triton's kernels that are compiled: run it there for figures of that.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from torch._dynamo.utils import counters

from lightning_diff.denoiser import Denoiser
from lightning_diff.modules import Compile
from lightning_diff.nets import DiT, UNet
from lightning_diff.nets.blocks import blocks
from lightning_diff.objectives import denoising_loss

NETS = {
    "dit": lambda: DiT((3, 32, 32), 10, patch_size=4, width=64, depth=12, heads=2),
    "unet": lambda: UNet(
        (3, 16, 16), 10, channels=32, channel_mult=(1, 2, 2), num_blocks=2, attention=(8,), dropout=0.1
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(*options.one, options.device)
        return
    print(
        "| network | compiled | graphs | CPU seconds to the first step | ms a step |\n|---|---|---|---|---|", flush=True
    )
    for net in options.nets.split(","):
        for region in ("nothing", "blocks", "network"):
            with tempfile.TemporaryDirectory() as cache:
                environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
                command = [sys.executable, __file__, "--device", options.device, "--one", net, region]
                subprocess.run(command, env=environment, check=True)


def measure(name: str, region: str, device: str) -> None:
    torch.manual_seed(0)
    net = NETS[name]().to(device)
    denoiser, parts = Denoiser(net), len(list(blocks(net)))
    x0, noise = torch.randn(2, 8, *net.shape, device=device).unbind(0)
    sigma = torch.linspace(0.1, 2, 8, device=device)
    label = torch.arange(8, device=device) % 10

    def step() -> float:
        start = sum(os.times()[:4])
        denoising_loss(denoiser, x0, sigma, noise, label).mean().backward()
        if device != "cpu":
            torch.cuda.synchronize()
        return sum(os.times()[:4]) - start

    plain = step()
    if region != "nothing":
        Compile(region=region).network(net)  # type: ignore[arg-type]
    first = step()
    clock, times = time.process_time, []
    for _ in range(10):
        start = clock()
        step()
        times.append(clock() - start)
    graphs = counters["stats"]["unique_graphs"]
    print(
        f"| {name}, {parts} blocks | {region} | {graphs} | {max(first - plain, 0):.1f} | {1e3 * statistics.median(times):.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
