"""Methods by name: each file holds one method and the dataclass of its options."""

from typing import Annotated

from tyro.conf import subcommand

from kmat.methods.coop import CoOpConfig
from kmat.methods.kgcoop import KgCoOpConfig
from kmat.methods.kmat import KMaTConfig
from kmat.methods.zero_shot import ZeroShotConfig

__all__ = ["METHODS", "CoOpConfig", "KMaTConfig", "KgCoOpConfig", "MethodConfig", "ZeroShotConfig"]

METHODS: dict[str, type[ZeroShotConfig | CoOpConfig | KgCoOpConfig | KMaTConfig]] = {
    "zero-shot": ZeroShotConfig,
    "coop": CoOpConfig,
    "kgcoop": KgCoOpConfig,
    "kmat": KMaTConfig,
}

# On the command line a method is a subcommand.
MethodConfig = (
    Annotated[ZeroShotConfig, subcommand("zero-shot", prefix_name=False)]
    | Annotated[CoOpConfig, subcommand("coop", prefix_name=False)]
    | Annotated[KgCoOpConfig, subcommand("kgcoop", prefix_name=False)]
    | Annotated[KMaTConfig, subcommand("kmat", prefix_name=False)]
)
