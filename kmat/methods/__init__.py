"""Methods by name: each file holds one method and the dataclass of its options."""

from typing import Annotated

from tyro.conf import subcommand

from kmat.methods.biomedcoop import BiomedCoOpConfig
from kmat.methods.cocoop import CoCoOpConfig
from kmat.methods.coop import CoOpConfig
from kmat.methods.kgcoop import KgCoOpConfig
from kmat.methods.kmat import KMaTConfig
from kmat.methods.residual import ResidualConfig
from kmat.methods.zero_shot import ZeroShotConfig

__all__ = [
    "METHODS",
    "BiomedCoOpConfig",
    "CoCoOpConfig",
    "CoOpConfig",
    "KMaTConfig",
    "KgCoOpConfig",
    "MethodConfig",
    "ResidualConfig",
    "ZeroShotConfig",
]

METHODS: dict[
    str,
    type[ZeroShotConfig | CoOpConfig | CoCoOpConfig | KgCoOpConfig | BiomedCoOpConfig | KMaTConfig | ResidualConfig],
] = {
    "zero-shot": ZeroShotConfig,
    "coop": CoOpConfig,
    "cocoop": CoCoOpConfig,
    "kgcoop": KgCoOpConfig,
    "biomedcoop": BiomedCoOpConfig,
    "kmat": KMaTConfig,
    "residual": ResidualConfig,
}

# On the command line a method is a subcommand.
MethodConfig = (
    Annotated[ZeroShotConfig, subcommand("zero-shot", prefix_name=False)]
    | Annotated[CoOpConfig, subcommand("coop", prefix_name=False)]
    | Annotated[CoCoOpConfig, subcommand("cocoop", prefix_name=False)]
    | Annotated[KgCoOpConfig, subcommand("kgcoop", prefix_name=False)]
    | Annotated[BiomedCoOpConfig, subcommand("biomedcoop", prefix_name=False)]
    | Annotated[KMaTConfig, subcommand("kmat", prefix_name=False)]
    | Annotated[ResidualConfig, subcommand("residual", prefix_name=False)]
)
