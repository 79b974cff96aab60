"""What the card can do at best."""

import time
from collections.abc import Callable

import torch

from benchmarks.gpu.clock import device_seconds
from benchmarks.gpu.section import Run
from benchmarks.methods.tensors import DTYPES, wait

_CALLS = 2000


def measure(run: Run) -> None:
    """Add one row each for copies, products, launches and reads."""
    device = run.device
    source = torch.zeros((1 << 20 if run.small else 1 << 30) // 4, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    seconds = device_seconds(lambda: target.copy_(source), device)
    run.add(what="copy, bytes read and written", unit="B/s", value=moved / seconds)
    for dtype in DTYPES:
        for n in (64,) if run.small else (1000, 4096):
            A, B = torch.rand(2, n, n, dtype=DTYPES[dtype], device=device)
            seconds = device_seconds(lambda A=A, B=B: A @ B, device)
            run.add(what=f"product, n = {n}, {dtype}", unit="FLOP/s", value=2 * n**3 / seconds, seconds=seconds)
    x = torch.zeros((), device=device)
    run.add(what="launch", unit="s", value=_each(lambda: x.add_(1), device))
    run.add(what="read", unit="s", value=_each(lambda: x.item(), device))


def _each(call: Callable[[], object], device: str) -> float:
    """Seconds of the host per call, of many without a break."""
    for _ in range(10):
        call()
    wait(device)
    start = time.perf_counter()
    for _ in range(_CALLS):
        call()
    seconds = time.perf_counter() - start
    wait(device)
    return seconds / _CALLS
