"""The benchmarks that kmat brings along."""

from kmat.digits import DIGITS
from kmat.phantom import CHEST
from kmat.phantom.breast import BREAST
from kmat.phantom.skin import SKIN
from kmat.tinyclip.frozen import Embedded

EMBEDDED: dict[str, Embedded] = {bench.task: bench for bench in (CHEST, BREAST, SKIN, DIGITS)}
