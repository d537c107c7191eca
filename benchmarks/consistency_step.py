"""What a step of consistency training costs, against a plain diffusion step of the same network: time and memory.

    OMP_NUM_THREADS=1 python benchmarks/consistency_step.py [--rounds 20] [--batch 8] [--compile] [--device cuda --precision bf16]

The network is a DDPM++ U-Net with attention at 32x32 (2.7 M parameters). A step is forward, loss and backward, without the
optimiser, whose share is the same everywhere. All variants run in one process, one after the other in every round, in another order
each time; each round's ratios are to the diffusion step of that round. On a CPU the time is the process's own, so that other work
on the machine matters less. Prints medians, quartiles of the ratio, and the peak memory of a step's tensors.

With a forward pass as the unit and a backward pass of 2, a diffusion step is 3, and an untaped derivative beside the value 1 more:
the bound is 4/3 for training (sCT), 5/3 for distillation (sCD), whose teacher is one more forward pass.
"""

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lightning_diff import tangent
from lightning_diff.denoiser import Denoiser
from lightning_diff.nets import UNet
from lightning_diff.noise import LogNormal, stratified
from lightning_diff.objectives import consistency_loss, denoising_loss

NET = {"channels": 32, "channel_mult": (1, 2, 2), "num_blocks": 4, "attention": (16,)}


def variants(
    student: Denoiser,
    teacher: Denoiser,
    x0: Tensor,
    sigma: Tensor,
    noise: Tensor,
    compiled: bool,
    backend: str = "inductor",
) -> dict[str, Callable[[], Tensor]]:
    """The losses to be differentiated, by name."""
    wrapped = partial(torch.compile, dynamic=False, backend=backend) if compiled else lambda fn: fn
    diffusion, consistency = wrapped(denoising_loss), wrapped(consistency_loss)

    def of(**options: object) -> Callable[[], Tensor]:
        return lambda: consistency(student, x0, sigma, noise, **options).loss.mean()

    def naive() -> Tensor:
        """The usual recipe: torch.func.jvp without a graph, here through the same layers in their plain form; then a plain pass."""
        inside, tangent.jvp = tangent.jvp, torch.func.jvp
        try:
            return consistency(student, x0, sigma, noise, derivative="two_pass").loss.mean()
        finally:
            tangent.jvp = inside

    losses = {
        "diffusion": lambda: diffusion(student, x0, sigma, noise).mean(),
        "sCT": of(),
        "sCD": of(teacher=teacher),
        "sCT, two passes": of(derivative="two_pass"),
        "sCT, central difference": of(derivative="central"),
        "sCT, torch.func.jvp": naive,
    }
    return {name: loss for name, loss in losses.items() if not compiled or name in ("diffusion", "sCT", "sCD")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--norm", default="double", choices=["additive", "adaptive", "double"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    options = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device(options.device)
    student, teacher = (
        Denoiser(UNet((3, 32, 32), dropout=options.dropout, norm=options.norm, **NET), 0.5, "trigflow").to(device)
        for _ in range(2)
    )
    teacher.eval().requires_grad_(False)
    x0, noise = torch.randn(2, options.batch, 3, 32, 32, device=device).unbind(0)
    sigma = LogNormal(-1.0, 1.4).icdf(stratified(options.batch)).to(device)
    losses = variants(student, teacher, 0.5 * x0, sigma, noise, options.compile)

    def step(loss: Callable[[], Tensor]) -> None:
        student.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16", cache_enabled=False):
            value = loss()
        value.backward()

    times: dict[str, list[float]] = {name: [] for name in losses}
    order = random.Random(0)
    for _ in range(2):
        for loss in losses.values():
            step(loss)
    for _ in range(options.rounds):
        for name in order.sample(list(losses), len(losses)):
            times[name].append(timed(partial(step, losses[name]), device))
    memory = {name: peak_bytes(partial(step, loss), device) for name, loss in losses.items()}

    print(
        f"{options.device} {options.precision}{' compiled' * options.compile}, batch {options.batch}, {options.rounds} rounds"
    )
    print(f"{'':<26}{'ms':>9}{'ratio':>8}{'quartiles':>15}{'memory':>10}")
    for name in losses:
        ratios = sorted(a / b for a, b in zip(times[name], times["diffusion"], strict=True))
        low, _, high = statistics.quantiles(ratios, n=4)
        print(
            f"{name:<26}{1e3 * statistics.median(times[name]):>9.1f}{statistics.median(ratios):>8.2f}"
            f"{f'{low:.2f} - {high:.2f}':>15}{memory[name] / memory['diffusion']:>10.2f}"
        )


def timed(run: Callable[[], None], device: torch.device) -> float:
    """Seconds; on a CPU, of its time spent here, whatever else the machine does."""
    if device.type == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(run: Callable[[], None], device: torch.device) -> int:
    """The most that tensors took at a time during `run`, beyond what they took before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


if __name__ == "__main__":
    main()
