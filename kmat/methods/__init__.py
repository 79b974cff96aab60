"""Methods by name: their options in ``configs``, and a file for each, which is imported when one is set up."""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from tyro.conf import subcommand

from kmat.methods.configs import (
    BiomedCoOpConfig,
    CoCoOpConfig,
    CoOpConfig,
    KgCoOpConfig,
    KMaTConfig,
    ResidualConfig,
    ZeroShotConfig,
)

__all__ = [
    "METHODS",
    "BiomedCoOpConfig",
    "CoCoOpConfig",
    "CoOpConfig",
    "KMaTConfig",
    "KgCoOpConfig",
    "MethodConfig",
    "MethodName",
    "MethodOption",
    "ResidualConfig",
    "ZeroShotConfig",
]

MethodConfig = (
    ZeroShotConfig | CoOpConfig | CoCoOpConfig | KgCoOpConfig | BiomedCoOpConfig | KMaTConfig | ResidualConfig
)
METHODS: dict[str, type[MethodConfig]] = {kind.name: kind for kind in get_args(MethodConfig)}

if TYPE_CHECKING:
    MethodName = str
    MethodOption = MethodConfig
else:
    MethodName = Literal[tuple(METHODS)]
    # On the command line a method is a subcommand.
    MethodOption = reduce(or_, (Annotated[kind, subcommand(name, prefix_name=False)] for name, kind in METHODS.items()))
