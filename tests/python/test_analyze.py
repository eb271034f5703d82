"""`qstore analyze` against entropies that numpy computes, and against the store that `qstore pack` makes.

The checkpoints are a chain as GPTQ writes it, made here: BF16, and codes of 8 and of 4 bits in words of 32.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

Array = npt.NDArray[Any]

LAYERS, ROWS, COLS, GROUP = 6, 256, 512, 128
WEIGHTS = LAYERS * ROWS * COLS
WAYS = {"raw", "entropy", "huffman", "zstd", "zipnn", "ours"}


def run(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [os.environ["QSTORE_BIN"], *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr + done.stdout
    return done


def gptq(weights: Array, bits: int) -> tuple[Array, dict[str, Array]]:
    """Symmetric codes of a matrix [out, in], and the tensors that hold them."""
    grouped = weights.reshape(ROWS, COLS // GROUP, GROUP)
    middle = 1 << (bits - 1)
    scales = (np.abs(grouped).max(axis=2) / (middle - 1)).astype(np.float16)
    codes = np.rint(grouped / scales.astype(np.float32)[:, :, None]) + middle
    codes = codes.clip(0, 2 * middle - 1).astype(np.uint32).reshape(ROWS, COLS)
    each = 32 // bits
    shifts = (np.arange(each, dtype=np.uint32) * bits)[None, :, None]
    words = (codes.T.reshape(COLS // each, each, ROWS) << shifts).sum(axis=1, dtype=np.uint32)
    # `gptq` stores zero-points less one.
    zero = np.uint32(sum((middle - 1) << (bits * at) for at in range(each)))
    tensors = {
        "qweight": np.ascontiguousarray(words).view(np.int32),
        "scales": np.ascontiguousarray(scales.T),
        "qzeros": np.full((COLS // GROUP, ROWS // each), zero).view(np.int32),
        "g_idx": (np.arange(COLS) // GROUP).astype(np.int32),
    }
    return codes, tensors


class Chain:
    """The folders, and what lies in them as numpy sees it."""

    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(1)
        tensors: dict[str, dict[str, Array]] = {name: {} for name in ("bf16", "g8", "g4")}
        self.symbols: dict[str, list[Array]] = {name: [] for name in tensors}
        for layer in range(LAYERS):
            base = f"model.layers.{layer}.mlp.up_proj"
            weights = (rng.standard_normal((ROWS, COLS)) * 0.02).astype(ml_dtypes.bfloat16)
            tensors["bf16"][f"{base}.weight"] = weights
            self.symbols["bf16"].append(weights.view(np.uint16))
            for name, bits in ("g8", 8), ("g4", 4):
                codes, parts = gptq(weights.astype(np.float32), bits)
                self.symbols[name].append(codes)
                tensors[name] |= {f"{base}.{part}": array for part, array in parts.items()}
        head = rng.standard_normal((300, 256)).astype(ml_dtypes.bfloat16)
        self.folders = {name: root / name for name in tensors}
        for name, folder in self.folders.items():
            folder.mkdir()
            save_file(tensors[name] | {"lm_head.weight": head}, folder / "model.safetensors")
            (folder / "config.json").write_text("{}")

    def named(self, *names: str) -> list[str]:
        return [f"{name}={self.folders[name]}" for name in names or self.folders]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def analysis(chain: Chain) -> dict[str, Any]:
    return json.loads(run("analyze", *chain.named(), "--json").stdout)


def entropy(symbols: Array) -> float:
    """Bits of all symbols."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def measures(analysis: dict[str, Any]) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    for variant in analysis["variants"]:
        for measure in variant["measures"]:
            yield variant["name"], measure["given"], measure


def test_json_has_its_shape(analysis: dict[str, Any]) -> None:
    assert analysis.keys() == {"variants", "matrices", "store"}
    assert [(v["name"], v["scheme"]) for v in analysis["variants"]] == [
        ("g4", "gptq"),
        ("g8", "gptq"),
        ("bf16", "none"),
    ]
    pairs = [(name, given) for name, given, _ in measures(analysis)]
    want = [("g4", None), ("g8", None), ("g8", "g4"), ("bf16", None), ("bf16", "g4"), ("bf16", "g8")]
    assert pairs == want
    for _, given, measure in measures(analysis):
        assert measure.keys() == {"given", "matrices", "quantised", "scales", "other"}
        assert measure["matrices"] == LAYERS
        assert measure["quantised"]["weights"] == WEIGHTS
        for part in "quantised", "scales", "other":
            assert measure[part].keys() == {"weights", "bits", "bits_per_weight"}
            assert measure[part]["bits"].keys() == measure[part]["bits_per_weight"].keys() == WAYS
        figures = measure["quantised"]["bits_per_weight"]
        assert all((figures[way] is None) == (given is not None) for way in ("zstd", "zipnn"))
        assert all(figures[way] > 0 for way in WAYS - {"zstd", "zipnn"})
    assert len(analysis["matrices"]) == LAYERS
    for matrix in analysis["matrices"]:
        assert matrix.keys() == {"name", "shape", "variants"}
        assert matrix["shape"] == [ROWS, COLS]
        assert [len(variant["measures"]) for variant in matrix["variants"]] == [1, 2, 3]


def test_entropies_are_those_of_numpy(chain: Chain, analysis: dict[str, Any]) -> None:
    for name, given, measure in measures(analysis):
        high = [symbols.astype(np.int64) for symbols in chain.symbols[name]]
        if given is None:
            want = sum(entropy(symbols) for symbols in high)
        else:
            low = [symbols.astype(np.int64) for symbols in chain.symbols[given]]
            want = sum(entropy(h << 8 | c) - entropy(c) for h, c in zip(high, low, strict=True))
        # Each matrix is rounded to whole bits.
        assert measure["quantised"]["bits"]["entropy"] == pytest.approx(want, abs=LAYERS), (name, given)


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (("g4",), {"g4": None}),
        (("g8", "g4"), {"g4": None, "g8": "g4"}),
        (("bf16", "g8"), {"g8": None, "bf16": "g8"}),
        (("bf16", "g4"), {"g4": None, "bf16": "g4"}),
    ],
)
def test_ours_is_what_pack_stores(
    chain: Chain,
    analysis: dict[str, Any],
    tmp_path: Path,
    names: tuple[str, ...],
    given: dict[str, str | None],
) -> None:
    run("pack", *chain.named(*names), "-o", tmp_path / "store", "-q")
    report = json.loads(run("inspect", tmp_path / "store", "--tensors", "--json").stdout)
    for variant in report["variants"]:
        name = variant["name"]
        stored = {tensor["name"]: tensor["stored_bytes"] * 8 for tensor in variant["tensors"]}
        has_near = any(tensor["encoding"] == "near" for tensor in variant["tensors"])
        for matrix in analysis["matrices"]:
            (mine,) = (cell for cell in matrix["variants"] if cell["name"] == name)
            (measure,) = (m for m in mine["measures"] if m["given"] == given[name])
            assert measure["bits"]["ours"] == pytest.approx(stored.pop(mine["tensor"]), rel=0.01), (
                name,
                matrix["name"],
            )
        (measure,) = (m for who, what, m in measures(analysis) if (who, what) == (name, given[name]))
        rest = measure["scales"]["bits"]["ours"] + measure["other"]["bits"]["ours"]
        # Of scales it says what they take alone.
        assert has_near == (name == "g8" and given[name] == "g4")
        if has_near:
            assert rest > sum(stored.values()) * 1.5, name
        else:
            assert rest == pytest.approx(sum(stored.values()), rel=0.01, abs=800), name


def test_a_killed_run_goes_on(chain: Chain, analysis: dict[str, Any], tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    arguments = ["analyze", *chain.named(), "--json", "--resume", str(results)]
    command = [os.environ["QSTORE_BIN"], *arguments, "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and (not results.exists() or results.read_bytes().count(b"\n") < 3):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = results.read_bytes()
    assert done.count(b"\n") >= 3
    # The last line as a kill in the middle of writing leaves it.
    results.write_bytes(done[:-5])
    assert json.loads(run(*arguments).stdout) == analysis
    whole = results.read_bytes()
    assert whole.startswith(done[: done[:-5].rindex(b"\n") + 1])
    assert whole.count(b"\n") == 1 + LAYERS + 3
    assert json.loads(run(*arguments).stdout) == analysis
    assert results.read_bytes() == whole


def test_results_of_other_inputs_are_refused(chain: Chain, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    run("analyze", *chain.named("g8", "g4"), "--resume", results)
    before = results.read_bytes()
    refusal = run("analyze", *chain.named("bf16", "g4"), "--resume", results, status=2)
    assert "results of g4, g8, and not of g4, bf16" in refusal.stderr
    assert results.read_bytes() == before


def test_tables_and_chart(chain: Chain, tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    table = run("analyze", *chain.named("bf16", "g4"), "--chart", chart).stdout
    assert "ZipNN-style" in table
    assert "up_proj" not in table
    assert "bf16 given g4" in chart.read_text()
    table = run("analyze", *chain.named("bf16", "g4"), "--tensors").stdout
    assert table.count("model.layers.") == 3 * LAYERS
    refusal = run("analyze", *chain.named("g4"), "--chart", tmp_path / "none" / "chart.svg", status=2)
    assert "no folder" in refusal.stderr


def test_bytes_of_the_store(chain: Chain, analysis: dict[str, Any], tmp_path: Path) -> None:
    run("pack", *chain.named(), "-o", tmp_path / "store")
    store = json.loads(run("analyze", tmp_path / "store", "--json").stdout)
    assert store == analysis["store"]
    parts = ("codes", "scales", "exceptions", "overhead", "other")
    on_disk = sum(path.stat().st_size for path in (tmp_path / "store").iterdir())
    assert sum(store["sum"]["bytes"][part] for part in parts) == on_disk
    weights = LAYERS * ROWS * COLS
    assert [variant["weights"] for variant in store["variants"]] == [weights] * 3
    counted = on_disk - store["sum"]["bytes"]["other"]
    assert store["sum"]["bits_per_weight"]["sum"] == pytest.approx(8 * counted / weights)
    want = sum(entropy(matrix) for matrix in chain.symbols["bf16"]) / weights
    assert store["entropy"] == {"variant": "bf16", "bits_per_weight": pytest.approx(want, abs=1e-6)}
