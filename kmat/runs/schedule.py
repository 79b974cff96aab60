"""How long, and at which rates, is trained."""

import math
from dataclasses import dataclass

from kmat.options import check


@dataclass(frozen=True)
class Schedule:
    """Optimisation; the defaults are the paper's, and BiomedCoOp's where the paper is silent."""

    epochs: int = 50
    """Passes over the training images (paper)."""
    batch_size: int = 4
    """Images per step (paper); the last, smaller batch of an epoch is used too, where Dassl drops it."""
    lr: float = 0.0025
    """Base learning rate (paper)."""
    momentum: float = 0.9
    """Of SGD, without dampening or Nesterov. Not in the paper."""
    weight_decay: float = 5e-4
    """Not in the paper."""
    warmup_lr: float = 1e-5
    """Constant rate of the warm-up epoch. The paper says one warm-up epoch and no more."""

    def __post_init__(self) -> None:
        check(1, epochs=self.epochs, batch_size=self.batch_size)
        check(0, lr=self.lr, weight_decay=self.weight_decay, warmup_lr=self.warmup_lr)
        check(0, 1, momentum=self.momentum)

    def rate(self, epoch: int) -> float:
        r"""Learning rate of an epoch: one at ``warmup_lr``, then a cosine that is stepped per epoch.

        .. math:: \eta_0 = \eta_{warm}, \quad \eta_e = \tfrac12 \eta (1 + \cos(\pi (e - 1) / E)), \; e \ge 1

        This is what Dassl's warm-up wrapper does; it ends above zero.

        Examples
        --------
        >>> schedule = Schedule()
        >>> [schedule.rate(epoch) for epoch in (0, 1, 2)]
        [1e-05, 0.0025, 0.0024975...]
        """
        if epoch == 0:
            return self.warmup_lr
        return 0.5 * self.lr * (1 + math.cos(math.pi * (epoch - 1) / self.epochs))
