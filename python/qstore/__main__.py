"""The `qstore` command: `qstore --help`, or `python -m qstore --help`."""

from __future__ import annotations

import signal
import sys

from qstore._core import run_cli


def main() -> None:
    # The command is Rust's alone: Ctrl-C ends it as it ends any program, and leaves no half store.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(run_cli(["qstore", *sys.argv[1:]], [sys.executable, "-m", "qstore"]))


if __name__ == "__main__":
    main()
