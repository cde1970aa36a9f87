"""The command `dmftcore`; needs the extra ``cli``."""

from __future__ import annotations

import sys

__all__ = ["main"]

#: What the extra ``cli`` brings and every command needs.
_NEEDED = ("typer", "rich", "psutil")


def main() -> None:
    """Entry point of the command line."""
    try:
        from dmftcore._commands import app
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _NEEDED:
            raise
        print(
            f"dmftcore: error: the command line needs {package}, which is not installed: "
            'pip install "dmftcore[cli]"',
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    app(prog_name="dmftcore")


if __name__ == "__main__":
    main()
