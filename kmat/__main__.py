"""Entry point of ``kmat`` and ``python -m kmat``."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. The version needs none of what commands import."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given == ["--version"]:
        from importlib.metadata import version

        print(f"kmat {version('fgwot')}")
        return 0
    from kmat.cli import main

    return main(given)


if __name__ == "__main__":
    sys.exit(main())
