"""The `qstore` command line, as these tests use it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Exit statuses that the command line promises.
DONE, DAMAGED = 0, 1

#: No command on these small models may hang a build.
TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class QStore:
    """Runs the binary and checks its exit status; a wrong one fails the test with what the program said."""

    binary: Path

    def run(self, *arguments: str | Path, status: int = DONE) -> str:
        """Runs one command and returns its standard output."""
        command = [str(self.binary), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        assert done.returncode == status, (
            f"{' '.join(command)}\nexit status {done.returncode}, expected {status}\n{done.stderr}{done.stdout}"
        )
        return done.stdout

    def pack(self, store: Path, *options: str, **variants: Path) -> Path:
        """Packs the folders given as `name=folder` into `store`."""
        folders = [f"{name}={folder}" for name, folder in variants.items()]
        self.run("pack", *folders, "-o", store, *options)
        return store

    def unpack(self, store: Path, variant: str, target: Path) -> Path:
        """Restores one variant into the new folder `target`, and returns it."""
        self.run("unpack", store, variant, "-o", target)
        return target

    def inspect(self, store: Path) -> dict[str, Any]:
        """The whole report, with tensors."""
        return json.loads(self.run("inspect", store, "--tensors", "--json"))

    def load(self, store: Path, variant: str) -> dict[str, Any]:
        """Decodes one variant into memory, and returns what that took."""
        return json.loads(self.run("load", store, variant, "--json"))


def variant_of(report: dict[str, Any], name: str) -> dict[str, Any]:
    """One variant's part of what `inspect` reported."""
    (variant,) = (variant for variant in report["variants"] if variant["name"] == name)
    return variant


def tensors_of(report: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """How each tensor of one variant is stored, by tensor name."""
    return {tensor["name"]: tensor for tensor in variant_of(report, name)["tensors"]}
