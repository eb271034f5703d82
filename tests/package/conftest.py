"""Stores that tests read, made once. Whoever changes one copies it first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qstore
from arrays import FRAMEWORKS
from checkpoints import Raw, model, read_safetensors, write_pair, write_zeros

#: Matrices of one chunk and of several, of more rows than columns and of fewer.
SHAPES = [(256, 128), (128, 384), (1312, 512)]


def command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `python -m qstore`."""
    line = [sys.executable, "-m", "qstore", *map(str, arguments)]
    return subprocess.run(line, check=False, capture_output=True, text=True, encoding="utf-8", **options)


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def qstore_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    return command


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model in BF16, LLM.int8() and 4 bits of GPTQ."""
    root = tmp_path_factory.mktemp("folders")
    found = write_pair(root, model(7, SHAPES))
    made = command("quantize", found["bf16"], "--to", "gptq4", "-o", root / "gptq4")
    assert made.returncode == 0, made.stderr
    return found | {"gptq4": root / "gptq4"}


@pytest.fixture(scope="session")
def originals(folders: dict[str, Path]) -> dict[str, dict[str, Raw]]:
    """The tensors of each variant, read without qstore."""
    return {name: read_safetensors(folder / "model.safetensors") for name, folder in folders.items()}


@pytest.fixture(scope="session")
def store(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three in a store, in which BF16 is stored given codes of both others."""
    target = tmp_path_factory.mktemp("store") / "model.qstore"
    qstore.pack(folders, target)
    return target


@pytest.fixture(scope="session")
def zeros(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes long enough to store that there is time to stop it."""
    return write_zeros(tmp_path_factory.mktemp("zeros") / "model", 8, 64 << 20)


@pytest.fixture(scope="session")
def zeros_store(zeros: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("zeros-store") / "model.qstore"
    qstore.pack({"zeros": zeros}, target)
    return target
