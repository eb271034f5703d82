"""`qstore bench` measures safetensors by its own Python package. Here with numpy, as torch is too large for this
tier."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

#: Changes a code whenever the package loads a file; Python imports this file at its start if it is on its path.
LIE = """
import ml_dtypes
import safetensors.numpy as library

honest = library.load_file

def load_file(path):
    tensors = {name: tensor.copy() for name, tensor in honest(path).items()}
    tensors["codes"][-1, -1] += 1
    return tensors

library.load_file = load_file
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    rng = np.random.default_rng(1)
    tensors = {
        "weight": rng.standard_normal((300, 400)).astype(ml_dtypes.bfloat16),
        "codes": rng.integers(-128, 128, (300, 400), np.int8),
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 3), np.float16),
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder


def bench(model: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [
        os.environ["QSTORE_BIN"],
        "bench",
        f"bf16={model}",
        "--repeats",
        "1",
        "--cache",
        "warm",
        "--json",
    ]
    command += ["--python", sys.executable, *arguments]
    env = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)


def test_safetensors_is_measured_and_gives_back_every_byte(model: Path) -> None:
    done = bench(model, "--peers", "none,safetensors", "--bandwidth", "1000")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    none, peer = report["peers"]
    assert peer["name"] == "safetensors"
    assert "ml_dtypes" in peer["version"]
    assert [load["bandwidth_mib_per_second"] for load in peer["loads"]] == [None, 1000]
    assert all(load["bytes_read"] == (model / "model.safetensors").stat().st_size for load in peer["loads"])
    assert abs(peer["stored_bytes"] - none["stored_bytes"]) < 1000


def test_a_wrong_byte_is_found(model: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(LIE)
    done = bench(model, "--peers", "safetensors", PYTHONPATH=str(site))
    assert done.returncode == 1
    assert "safetensors gave back something else" in done.stderr
    assert "codes" in done.stderr
    assert done.stdout == ""


def test_what_is_missing_is_named(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "site" / "safetensors"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('no such package today')")
    done = bench(model, "--peers", "none,safetensors", PYTHONPATH=str(broken.parent))
    assert done.returncode == 0, done.stderr
    (absent,) = json.loads(done.stdout)["absent"]
    assert "no such package today" in absent["why"]
    assert "pip install safetensors" in absent["install"]
