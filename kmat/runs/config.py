"""Everything that determines a run's numbers, and its way to JSON and back."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kmat.errors import UserError
from kmat.methods import (
    METHODS,
    BiomedCoOpConfig,
    CoCoOpConfig,
    CoOpConfig,
    KgCoOpConfig,
    KMaTConfig,
    MethodConfig,
    MethodOption,
)
from kmat.model.crop import Crop
from kmat.model.names import at_home
from kmat.options import check
from kmat.runs.schedule import Schedule
from kmat.storage.schema import misfit, read_json
from kmat.tasks import BUILT_IN, TaskConfig

# `kmat train METHOD --published`: the few-shot schedules of BiomedCoOp's repository, the one that has every baseline
# on BiomedCLIP. The default is the K-MaT paper's, for every method.
PUBLISHED: dict[type[MethodConfig], Schedule] = {
    CoOpConfig: Schedule(epochs=100, batch_size=32, lr=0.002),
    CoCoOpConfig: Schedule(epochs=10, batch_size=1, lr=0.001),
    KgCoOpConfig: Schedule(epochs=100, batch_size=128, lr=0.002),
    BiomedCoOpConfig: Schedule(epochs=100),
}


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    method: MethodOption = field(default_factory=KMaTConfig)
    data: TaskConfig = field(default_factory=TaskConfig)
    backbone: str = "phantom:seed0"
    """biomedclip, phantom:NAME, local-dir:DIR, hf-hub:OWNER/REPO, or ARCHITECTURE:TAG of open_clip."""
    shots: int = 16
    """Training images per class (paper), all of them where there are fewer."""
    seed: int = 1
    """Of the few-shot draw, the contexts, the crops and the order of images."""
    augment: Literal["auto", "none", "crop"] = "auto"
    """Random resized crops of the training images, as BiomedCoOp does (the paper does not say); auto is crop, but
    none on the phantom, whose backbones saw whole images only."""
    views: int | None = None
    """Different crops of an image, which the epochs take in turn; by default each epoch has its own (BiomedCoOp's)."""
    crop: Crop = field(default_factory=Crop)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        check(1, shots=self.shots, **({} if self.views is None else {"views": self.views}))
        check(-(2**32), 2**32, seed=self.seed)  # what torch's generators take, with room for an epoch beside it

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, with the method's name among its options, and paths that hold wherever they are read."""
        table = asdict(self)
        table["backbone"] = at_home(self.backbone)
        table["method"] = {"name": self.method.name, **table["method"]}
        table["data"] = {k: os.path.abspath(v) if isinstance(v, Path) else v for k, v in table["data"].items()}  # noqa: PTH100
        if self.data.task not in BUILT_IN and os.path.exists(self.data.task):  # noqa: PTH110
            table["data"]["task"] = os.path.abspath(self.data.task)  # noqa: PTH100 (which, unlike Path's, has no ".." in it)
        table["crop"] = {key: list(value) for key, value in table["crop"].items()}
        return table

    @classmethod
    def read(cls, path: Path) -> "RunConfig":
        """Read the configuration in a run's ``config.json``.

        Raises
        ------
        UserError
            If the file cannot be read or holds none.
        """
        table = read_json(path)
        if not isinstance(table, dict) or not isinstance(table.get("config"), dict):
            raise UserError(f"{path} is no config.json of a run: it has no object under 'config'")
        try:
            return cls.from_json(table["config"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> "RunConfig":
        """Rebuild what :meth:`to_json` wrote.

        Raises
        ------
        UserError
            If the table has another shape, as a file of another version or a damaged one may.
        """
        try:
            method, data = dict(table["method"]), dict(table["data"])
            for name in ("root", "descriptions", "labels"):
                data[name] = None if data[name] is None else Path(data[name])
            for name in ("high_window", "low_window"):
                data[name] = None if data.get(name) is None else tuple(data[name])
            config = cls(
                **{
                    **table,
                    "method": METHODS[method.pop("name")](**method),
                    "data": TaskConfig(**data),
                    "crop": Crop(**{key: tuple(value) for key, value in table["crop"].items()}),
                    "schedule": Schedule(**table["schedule"]),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"not a configuration of this version of kmat: {error!r}") from error
        if wrong := misfit(config, cls):
            raise UserError(f"not a configuration of this version of kmat: {wrong}")
        return config
