"""The benchmarks that kmat brings along."""

from kmat.digits import DIGITS
from kmat.phantom import CHEST
from kmat.phantom.breast import BREAST
from kmat.tinyclip.frozen import Embedded

EMBEDDED: dict[str, Embedded] = {bench.task: bench for bench in (CHEST, BREAST, DIGITS)}
