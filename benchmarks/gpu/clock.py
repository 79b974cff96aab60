"""Two clocks: the device's, for kernels, and the host's, for calls."""

import statistics
import time
from collections.abc import Callable

import torch

_LONG = 0.02  # seconds from which a call is timed by itself, without a graph
_ROUNDS = 5


def device_seconds(call: Callable[[], object], device: str) -> float:
    """Time of a call on the device alone, its inputs in the caches: the median over replays of a graph of many calls.

    A graph, because launches from Python take longer than small kernels. On the CPU it is the time of one call, which
    Triton's interpreter makes a long one.
    """
    if device == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()  # compiles
        once = _between_events(call)
        if once >= _LONG:
            return statistics.median(_between_events(call) for _ in range(3))
        count = max(1, min(200, int(_LONG / 2 / once)))
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(count):
                call()
        return statistics.median(_between_events(graph.replay) for _ in range(_ROUNDS)) / count


def host_seconds(call: Callable[[], object], device: str, repeats: int = 20) -> float:
    """Median time of a call until the device is done, after two calls that warm up."""
    times = []
    for repeat in range(repeats + 2):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat > 1:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _between_events(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
