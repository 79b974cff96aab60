"""CoOp (Zhou et al., 2022): learned context, cross-entropy only."""

from kmat.methods.base import PromptLearner, Setting
from kmat.methods.configs import CoOpConfig


class CoOp(PromptLearner):
    """See :class:`~kmat.methods.configs.CoOpConfig`."""

    def __init__(self, config: CoOpConfig, setting: Setting) -> None:
        super().__init__(config, setting, csc=config.csc)
