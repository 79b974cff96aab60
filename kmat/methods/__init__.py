"""Methods by name: each file holds one method and the dataclass of its options."""

from kmat.methods.coop import CoOpConfig
from kmat.methods.kmat import KMaTConfig
from kmat.methods.zero_shot import ZeroShotConfig

__all__ = ["METHODS", "CoOpConfig", "KMaTConfig", "MethodConfig", "ZeroShotConfig"]

MethodConfig = ZeroShotConfig | CoOpConfig | KMaTConfig

METHODS: dict[str, type[MethodConfig]] = {
    "zero-shot": ZeroShotConfig,
    "coop": CoOpConfig,
    "kmat": KMaTConfig,
}
