"""The benchmarks that kmat brings along."""

from kmat.digits import DIGITS
from kmat.phantom import CHEST
from kmat.tinyclip.frozen import Embedded

EMBEDDED: dict[str, Embedded] = {bench.task: bench for bench in (CHEST, DIGITS)}
