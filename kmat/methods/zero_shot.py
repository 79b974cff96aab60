"""Zero-shot classification: nothing is learned."""

from torch import Tensor

from kmat.console import note
from kmat.methods.base import Batch, Method, Setting, prototypes, template_sentences
from kmat.methods.configs import ZeroShotConfig
from kmat.modalities import MODALITIES


class ZeroShot(Method):
    """Fixed text features, computed once; see :class:`~kmat.methods.configs.ZeroShotConfig`."""

    def __init__(self, config: ZeroShotConfig, setting: Setting) -> None:
        super().__init__(setting)
        sentences = setting.task.descriptions if config.text == "descriptions" else None
        if sentences is None:
            if config.text == "descriptions":
                note(f"{setting.task.name} has no descriptions: using the template {config.template!r} instead")
            sentences = template_sentences(setting.task, config.template)
        features = prototypes(setting, sentences, normalise=True, renormalise=True)
        for modality, each in zip(MODALITIES, features, strict=True):
            self.register_buffer(modality, each, persistent=False)

    def text_features(self, modality: str) -> Tensor:
        """Unit text features of one modality, shape (C, D), of the classes that it has."""
        return self.get_buffer(modality)

    def loss(self, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Return no terms: there is nothing to learn."""
        return {}
