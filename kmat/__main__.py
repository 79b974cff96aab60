"""Entry point of ``kmat`` and ``python -m kmat``."""

import sys

from kmat.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
