"""What the training loop and the evaluation see of a method, and what methods share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kmat.errors import UserError
from kmat.methods.configs import PromptConfig
from kmat.modalities import HIGH, LOW, MODALITIES
from kmat.model.backbone import Backbone, PromptFrame
from kmat.model.features import FeatureCache
from kmat.model.prompts import Contexts, start_from_words
from kmat.tasks.base import Descriptions, Task


class Batch(NamedTuple):
    """High-end training images: unit features (B, D) and labels (B,), counted among the high end's classes."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Setting:
    """What a method is built from."""

    backbone: Backbone
    task: Task
    cache: FeatureCache
    seed: int


class Method(nn.Module):
    """A classifier of image features by text.

    Its parameters are what is learned and its ``state_dict`` is all a checkpoint needs. The backbone is not part of
    either. A method without parameters is not trained.
    """

    stages: int = 1
    """How often the training goes through its schedule; :meth:`next_stage` is told in between."""
    image_conditional: ClassVar[bool] = False
    """Whether each image has text features of its own; such a method has :meth:`logits` but no :meth:`text_features`,
    and must be rebuilt from its state alone, on a task without images and descriptions."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.backbone = setting.backbone

    def text_features(self, modality: str) -> Tensor:
        """Unit text features of one modality's prompts, shape (C, D), of the classes that it has."""
        raise NotImplementedError

    def logits(self, images: Tensor, modality: str) -> Tensor:
        """Scores (B, C) of unit image features (B, D): cosine over the backbone's temperature."""
        return self.backbone.logit_scale * images @ self.text_features(modality).T

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms of the training loss, by name; the loop minimises their sum."""
        raise NotImplementedError

    def next_stage(self) -> None:
        """Prepare for the schedule's next round, which starts without momentum; the state must tell the stage."""

    def diagnostics(self) -> dict[str, int]:
        """Return counts of what went less than well since the last call; logged each epoch, reported if not zero."""
        return {}


class PromptLearner(Method):
    """Prompts ``[v1 ... vn, class text]`` with learned context vectors, trained by cross-entropy on the high end."""

    def __init__(
        self,
        config: PromptConfig,
        setting: Setting,
        *,
        csc: bool = False,
        msc: bool = False,
        same_start: bool = False,
        both_ends: bool = True,
    ) -> None:
        """Set up the prompts; ``both_ends`` tells whether they classify the low end, too."""
        super().__init__(setting)
        backbone, classes, n_ctx, words = setting.backbone, setting.task.classes, config.n_ctx, config.init_words
        if both_ends and csc and (unlearned := setting.task.absent.get(HIGH)):
            names = ", ".join(setting.task.labels[label] for label in sorted(unlearned))
            raise UserError(
                f"class-specific contexts learn from high-end images, and {setting.task.name} has none of {names}: "
                "take shared ones (--no-csc), or residual transport"
            )
        self.contexts = Contexts(
            len(classes),
            n_ctx,
            backbone.token_dim,
            csc=csc,
            msc=msc,
            seed=setting.seed,
            same_start=same_start,
            start=start_from_words(backbone, words, n_ctx) if words else None,
        )
        texts = class_texts(setting.task, config.prompt)
        # One frame for both modalities, so that their prompts can be encoded as one batch.
        self._frame = backbone.frame([text for modality in MODALITIES for text in texts[modality]], n_ctx)
        self._classes = {modality: list(setting.task.present(modality)) for modality in MODALITIES}

    def frame(self, modalities: Sequence[str]) -> PromptFrame:
        """Fixed part of the prompts of some modalities, as many of each as it has classes."""
        first = {HIGH: 0, LOW: len(self._classes[HIGH])}
        rows = torch.cat([torch.arange(len(self._classes[m])) + first[m] for m in modalities])
        return PromptFrame(self._frame.ids[rows], self._frame.embeddings[rows], self._frame.n_ctx)

    def own_contexts(self, modality: str) -> Tensor:
        """Context vectors (C, n_ctx, width) of the classes that a modality has."""
        vectors: Tensor = self.contexts(modality)
        own = self._classes[modality]
        return vectors if len(own) == len(vectors) else vectors[own]

    def encode(self, modalities: Sequence[str]) -> Tensor:
        """Raw text features of the prompts of modalities with equally many classes: (len(modalities), C, D)."""
        contexts = torch.cat([self.own_contexts(modality) for modality in modalities])
        features = self.backbone.encode_context(contexts, self.frame(modalities))
        return features.view(len(modalities), len(contexts) // len(modalities), -1)

    def text_features(self, modality: str) -> Tensor:
        """Unit text features of one modality's prompts, shape (C, D)."""
        return F.normalize(self.encode((modality,))[0], dim=-1)

    def cross_entropy(self, batch: Batch, high: Tensor) -> Tensor:
        """Cross-entropy of the batch against the high-end text features ``high`` (C, D), raw or unit."""
        return F.cross_entropy(self.backbone.logit_scale * batch.images @ F.normalize(high, dim=-1).T, batch.labels)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy alone."""
        return {"ce": self.cross_entropy(batch, self.encode((HIGH,))[0])}


def class_texts(task: Task, template: str) -> dict[str, tuple[str, ...]]:
    """Fill ``{name}`` and ``{modality}`` of a template for every class, by modality that has it."""
    return {
        modality: tuple(
            template.replace("{name}", task.classes[label]).replace("{modality}", task.modality_names[modality])
            for label in task.present(modality)
        )
        for modality in MODALITIES
    }


def template_sentences(task: Task, template: str) -> Descriptions:
    """One sentence per class and modality: the template, filled."""
    return {modality: tuple((text,) for text in texts) for modality, texts in class_texts(task, template).items()}


def require_same_classes(task: Task, who: str) -> None:
    """Refuse a task whose modalities differ in classes.

    Raises
    ------
    UserError
        If they do: that ``who`` needs the same ones.
    """
    if task.absent:
        raise UserError(
            f"{who} needs the same classes at both ends, and {task.name} has some {task.one_sided()}; residual "
            "transport (kmat train residual) does not"
        )


def required_descriptions(task: Task, who: str, remedy: str = "") -> Descriptions:
    """Return the task's descriptions.

    Raises
    ------
    UserError
        If it has none: that ``who`` needs them, and ``remedy``, what else can be done.
    """
    if task.descriptions is None:
        raise UserError(
            f"{who} needs descriptions of {task.name}'s classes: give them with --descriptions FILE{remedy}"
        )
    return task.descriptions


def prototypes(
    setting: Setting, sentences: Descriptions, *, normalise: bool, renormalise: bool
) -> tuple[Tensor, Tensor]:
    r"""Mean text feature of each class's sentences, :math:`\bar p_{i,m}`, high-end first: (C, D), of its classes.

    Parameters
    ----------
    setting : Setting
    sentences : mapping
        By modality and class.
    normalise : bool
        Bring each sentence's feature to unit length before the mean.
    renormalise : bool
        Bring the mean to unit length.
    """

    def of(modality: str) -> Tensor:
        found = sentence_features(setting, sentences[modality], normalise)
        means = torch.stack([features.mean(dim=0) for features in found])
        return F.normalize(means, dim=-1) if renormalise else means

    return of(HIGH), of(LOW)


def sentence_features(setting: Setting, sentences: Sequence[Sequence[str]], normalise: bool) -> list[Tensor]:
    """Text features (n, D) of each class's sentences, of unit length if ``normalise``."""
    found = [setting.cache.texts(setting.backbone, tuple(texts)) for texts in sentences]
    return [F.normalize(features, dim=-1) for features in found] if normalise else found
