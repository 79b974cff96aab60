"""Each Triton kernel beside what the libraries need for the same, on the device's clock."""

import os
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch

from benchmarks.gpu.clock import device_seconds
from benchmarks.gpu.section import Run
from benchmarks.kernel_times import BATCHES, WHOLE, large, whole
from benchmarks.methods.tensors import DTYPES

_DIRECT = 1000  # points up to which the direct sums, n^4 terms, are timed

Call = tuple[str, Callable[[], object]]


def measure(run: Run) -> None:
    """Add a row per kernel, size and type; one that fails leaves the others alone."""
    device = torch.device(run.device)
    if device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which is later
    for n in (9,) if run.small else (1000, 2000, 4000):
        for dtype in ("float32",) if run.small else DTYPES:
            _time(run, "library", library(n, device, DTYPES[dtype]), n=n, batch=1, dtype=dtype)
            if find_spec("triton"):
                calls = (call for call in large(n, device, DTYPES[dtype]) if n <= _DIRECT or not _direct(call[0]))
                _time(run, "kernel", calls, n=n, batch=1, dtype=dtype)
    for n in (2,) if run.small else WHOLE:
        for batch in (1,) if run.small else BATCHES:
            if find_spec("triton"):
                _time(run, "kernel", whole(n, batch, device), n=n, batch=batch, dtype="float32")


def library(n: int, device: torch.device, dtype: torch.dtype) -> Iterator[Call]:
    """Names and calls: the second product of a step with its linear term, and ways to sweep.

    With K = exp(g - X - rowmax), whose entries are at most 1, a sweep is u = p / (K v), v = q / (K' u): two products of
    a matrix and a vector, from the L2 cache where K fits into it. K is written once per step.
    """
    C, W, M = torch.rand(3, 1, n, n, device=device, dtype=dtype)
    yield "baddbmm, with the linear term", lambda: torch.baddbmm(M, W, C.mT, beta=0.5, alpha=-2.0)
    X, p, g = M[0], torch.full((n,), 1 / n, device=device, dtype=dtype), torch.zeros(n, device=device, dtype=dtype)

    def written() -> torch.Tensor:
        logits = g - X
        return logits.sub_(logits.amax(1, keepdim=True)).exp_()

    K = written()
    transposed, v = K.T.contiguous(), torch.ones_like(g)

    def products(K: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:
        u = p / torch.mv(K, v)
        return p / torch.mv(transposed, u)

    def logarithmic() -> torch.Tensor:
        f = p.log() - (g - X).logsumexp(1)
        return p.log() - (f[:, None] - X).logsumexp(0)

    yield "K written", written
    yield "one sweep, products with K and its view K'", lambda: products(K, K.T)
    yield "one sweep, products with K and a stored K'", lambda: products(K, transposed)
    yield "one sweep, log", logarithmic
    yield "last half sweep and plan, products with K", lambda: K * (p / torch.mv(K, v))[:, None]


def _time(run: Run, by: str, calls: Iterator[Call], **case: object) -> None:
    """Time calls; one that fails leaves the others alone, but a generator that fails can say no more."""
    try:
        for name, call in calls:
            run.attempt(lambda call=call: {"seconds": device_seconds(call, run.device)}, by=by, kernel=name, **case)
    except Exception as error:
        traceback.print_exc()
        run.add(by=by, kernel="all that follow", **case, error=f"{type(error).__name__}: {error}")


def _direct(name: str) -> bool:
    return name.startswith(("contraction", "adjoint"))
