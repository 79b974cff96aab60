"""What a command is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Command(ABC):
    """A command: its fields are its options, and to call it is to do it.

    Its module needs no torch, so that help, completion and errors of typing come at once; what does is imported when
    the command is done.

    Attributes
    ----------
    example : str
        What help begins with.
    usual : str
        Names of the fields that help explains, where it names the others only; all of them if empty.
    """

    example: ClassVar[str]
    usual: ClassVar[str] = ""

    @abstractmethod
    def __call__(self) -> None:
        """Do it.

        Raises
        ------
        UserError
            If it cannot be done; one line on the screen says why.
        """
