"""The loop: SGD over cached features, a checkpoint each epoch. It knows nothing of methods."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kmat.errors import UserError
from kmat.methods.base import Batch, Method
from kmat.runs.schedule import Schedule
from kmat.storage import atomic
from kmat.storage.tensors import load_tensors, save_tensors


def fit(
    method: Method,
    views: Tensor,
    labels: Tensor,
    schedule: Schedule,
    seed: int,
    checkpoint: Path,
    metrics: Path,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    """Train ``method`` and leave it trained; go on from ``checkpoint`` if there is one.

    Parameters
    ----------
    method : Method
        Its parameters are updated; nothing happens if it has none.
    views : Tensor, shape (E, N, D)
        Unit features of the training images; epoch e uses view e mod E.
    labels : Tensor, shape (N,), int64
    schedule : Schedule
    seed : int
        The order of the images in epoch e depends on (seed, e) only, so a resumed run needs no generator state.
    checkpoint : Path
        safetensors file with the method's state and the momentum, replaced after each epoch.
    metrics : Path
        JSON lines, one per epoch: rate, mean loss terms, and the method's diagnostics.
    after_epoch : callable
        Told after each epoch, once its checkpoint is written.
    """
    parameters = list(method.parameters())
    if not parameters:
        return
    optimiser = torch.optim.SGD(
        parameters, lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay
    )
    start = _restore(checkpoint, method, optimiser)
    _keep_lines(metrics, start)
    for epoch in range(start, method.stages * schedule.epochs):
        if epoch and epoch % schedule.epochs == 0:
            method.next_stage()
            optimiser.state.clear()
        rate = schedule.rate(epoch % schedule.epochs)
        optimiser.param_groups[0]["lr"] = rate
        images = views[epoch % len(views)]
        totals: dict[str, float] = {}
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        for index in order.split(schedule.batch_size):
            losses = method.loss(Batch(images[index], labels[index]))
            optimiser.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimiser.step()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach()) * len(index) / len(labels)
        if not all(math.isfinite(total) for total in totals.values()):
            raise UserError(f"the loss is no longer finite in epoch {epoch}: {totals}; try a smaller learning rate")
        line = {"epoch": epoch, "lr": rate, "losses": totals, "diagnostics": method.diagnostics()}
        atomic.append(metrics, json.dumps(line) + "\n")
        _store(checkpoint, method, optimiser, epoch + 1)
        after_epoch()


def _store(path: Path, method: Method, optimiser: torch.optim.Optimizer, epochs: int) -> None:
    tensors = {f"method.{name}": value.contiguous() for name, value in method.state_dict().items()}
    for index, parameter in enumerate(method.parameters()):
        if parameter in optimiser.state:  # not all need be learned in every stage
            tensors[f"momentum.{index}"] = optimiser.state[parameter]["momentum_buffer"]
    save_tensors(path, tensors, {"epochs": str(epochs)})


def _restore(path: Path, method: Method, optimiser: torch.optim.Optimizer) -> int:
    """Load a checkpoint; the number of epochs it has behind it, 0 if there is none."""
    if not path.exists():
        return 0
    try:
        tensors, metadata = load_tensors(path)
        epochs = int(metadata["epochs"])
        state = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
        method.load_state_dict(state)
        for index, parameter in enumerate(method.parameters()):
            if f"momentum.{index}" in tensors:
                optimiser.state[parameter]["momentum_buffer"] = tensors[f"momentum.{index}"].to(parameter.device)
    except (UserError, KeyError, RuntimeError) as error:
        raise UserError(f"cannot resume from {path}: {error}; start again with --overwrite") from error
    return epochs


def _keep_lines(metrics: Path, count: int) -> None:
    """Drop the lines of an epoch whose checkpoint was not reached."""
    try:
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.exists() else []
        for line in lines[:count]:
            json.loads(line)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot resume from {metrics}: {error}; start again with --overwrite") from error
    if len(lines) < count:
        raise UserError(f"cannot resume from {metrics}: {len(lines)} lines for {count} epochs; use --overwrite")
    if len(lines) > count:
        atomic.write(metrics, "".join(lines[:count]))
