"""The `bema` command. What it needs is imported inside: a Ctrl-C while that takes its time ends it quietly, too."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    try:
        from bema_cli import application

        application.app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
