"""The command `dcd`; `python -m dcdbackend` is the same."""

from __future__ import annotations

import sys

from .cli import run


def main() -> None:
    """Run the command line and exit with design's codes: 0, 1, 2, 3, 4, 70."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
