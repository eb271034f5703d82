"""docs/format.md says that a decoder written from it alone reads every store. This is the proof.

`second_decoder` knows nothing but that document. It restores stores that the binary under test has just written, and
the old ones that lie in crates/qstore/tests/golden/, and must give back every original byte. Where this fails and the
tests of the library pass, the two have drifted from the document together.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from safetensors import safe_open
from safetensors.numpy import save_file

from chunk_decoder import (
    SMALL_FLOATS,
    DamageError,
    Field,
    Json,
    Levels,
    Packing,
    Part,
    Values,
    View,
    binary32,
    expected_multiples,
    expected_ranks,
    rule_bins,
    step_bins,
)
from second_decoder import Array, Store, check_parts

Floats = npt.NDArray[Any]

GOLDEN = Path(__file__).resolve().parents[2] / "crates/qstore/tests/golden"
GOLDEN_CASES = sorted(listing.parent for listing in GOLDEN.glob("*/*/expected.sha256"))
DTYPES = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp32": np.float32}
KINDS = {"reference", "slice", "residual", "float-split", "codes", "zstd", "raw"}

#: The factor that a row of one scale is multiplied by, under each name of section 9.4.
RULES: dict[str, Callable[[Floats], Floats]] = {
    "reciprocal": lambda scale: np.float32(1) / scale * np.float32(127),
    "reciprocal-up": lambda scale: next_to(np.float32(1) / scale, np.inf) * np.float32(127),
    "reciprocal-down": lambda scale: next_to(np.float32(1) / scale, -np.inf) * np.float32(127),
    "quotient": lambda scale: np.float32(127) / scale,
}


class Gptq(NamedTuple):
    """How a variant is quantised: bits of its codes, columns of a group, whether groups are in any order, whether
    zero-points lie off the middle, the dtype of scales, and what stored zero-points lack."""

    bits: int
    group: int
    any_order: bool
    asymmetric: bool
    dtype: npt.DTypeLike
    lacks: int


#: A chain's variants.
CHAIN = {
    "gptq8": Gptq(8, 128, False, False, np.float32, 0),
    "gptq4": Gptq(4, 64, True, True, np.float16, 1),
    "gptq3": Gptq(3, 96, False, False, ml_dtypes.bfloat16, 1),
    "gptq2": Gptq(2, 32, True, False, np.float16, 1),
}


def next_to(value: Floats, toward: float) -> Floats:
    return np.asarray(np.nextafter(value, np.float32(toward)))


@np.errstate(all="ignore")
def quantize(weights: Floats, rule: str = "reciprocal") -> tuple[Floats, Floats]:
    """Codes and row scales, as LLM.int8() defines them; what is no number becomes 0."""
    half = weights.astype(np.float32).astype(np.float16).astype(np.float32)
    scale = np.abs(half).max(axis=1, initial=0)
    codes = np.rint(half * RULES[rule](scale)[:, None])
    return np.nan_to_num(codes, nan=0, posinf=127, neginf=-127).astype(np.int8), scale


@np.errstate(all="ignore")
def matrices(dtype: npt.DTypeLike, rng: np.random.Generator) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Tensors of a float checkpoint, and those of its LLM.int8() twin."""
    high: dict[str, Floats] = {}
    low: dict[str, Floats] = {}

    def draw(*shape: int, scale: float = 0.02) -> Floats:
        return (rng.standard_normal(shape) * scale).astype(np.float32).astype(dtype)

    def add(name: str, weights: Floats, rule: str = "reciprocal") -> None:
        high[f"{name}.weight"] = weights
        low[f"{name}.weight"], low[f"{name}.SCB"] = quantize(weights, rule)

    def poke(weights: Floats, values: list[float]) -> None:
        at = rng.choice(weights.size, len(values), replace=False)
        weights.reshape(-1)[at] = np.array(values, np.float32).astype(dtype)

    for shape in (1, 1), (1, 200), (200, 1), (65, 63), (3, 129), (0, 7), (7, 0), (400, 64):
        add(f"shape_{shape[0]}x{shape[1]}", draw(*shape))
    add("two_chunks", draw(600, 1000))
    # From a million elements on, coders have 128 lanes.
    add("wide", draw(1030, 1019))
    high["wide_vector"] = draw(1_100_003)
    # Rows of an odd number of half the lanes.
    high["wide_rows_of_192"] = draw(6000, 192)
    low["wide_codes_of_192"] = rng.normal(0, 9, (6000, 192)).astype(np.int8)
    # As GPT-2 keeps them: the codes are those of the transposed matrix.
    for shape in (600, 1000), (200, 200):
        add(f"turned_{shape[0]}", draw(*shape))
        high[f"turned_{shape[0]}.weight"] = np.ascontiguousarray(high[f"turned_{shape[0]}.weight"].T)
    # Nothing shortens the second chunk of these, neither that of the codes nor that of the weights.
    add("noise_below", draw(530, 1000))
    noise = rng.integers(0, 256, (6, 1000, np.dtype(dtype).itemsize), np.uint8)
    high["noise_below.weight"][524:] = noise.view(dtype)[:, :, 0]
    low["noise_below.weight"][524:] = rng.integers(-128, 128, (6, 1000))
    for rule in RULES:
        add(rule, draw(160, 333), rule)
    add("rows_of_many_scales", draw(200, 256) * np.exp2(rng.integers(-20, 9, (200, 1))).astype(dtype))
    sparse = draw(150, 200)
    sparse[rng.random(sparse.shape) < 0.4] = 0
    sparse[rng.random(sparse.shape) < 0.1] = -0.0
    sparse[::10] = 0
    add("zeros", sparse)
    add("few_bits", draw(120, 130).astype(np.float16).astype(dtype))

    special = [np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-7, -6e-8, 1e-41, 65519.0, 65520.0, 3e38]
    inside = draw(128, 128)
    poke(inside, special)
    add("special", inside)
    # Weights that changed after they were quantised: what does not fit the codes is an exception.
    changed = draw(128, 128)
    add("changed", changed)
    poke(changed, special)

    # Rows unlike each other, for several tables, with values that a sample of rows misses.
    embedding = draw(800, 257) * np.exp2(rng.integers(-9, 3, (800, 1))).astype(dtype)
    poke(embedding, special)
    high["embedding.weight"] = low["embedding.weight"] = embedding
    # Its last row is a short one.
    high["long"] = low["long"] = draw(70001, scale=1)
    high["norm.weight"] = low["norm.weight"] = 1 + draw(333)
    high["head.weight"] = draw(555, 111, scale=1).astype(ml_dtypes.bfloat16).astype(dtype)
    low["mask"] = rng.random((3, 5)) < 0.5
    low["scalar"] = np.array(7, np.uint8)
    return high, low


def write_pair(root: Path, dtype: npt.DTypeLike) -> dict[str, Path]:
    """The folders of a float checkpoint, in two files, and of its LLM.int8() twin, with odd things beside them."""
    rng = np.random.default_rng(20)
    high, low = matrices(dtype, rng)
    folders = {"high": root / "high", "int8": root / "int8"}
    for folder in folders.values():
        (folder / "nested").mkdir(parents=True)
    names = sorted(high)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        # Both files have a tensor of this name.
        twice = {"twice": rng.standard_normal(50).astype(np.float32)}
        save_file({name: high[name] for name in part} | twice, folders["high"] / file, {"format": "np"})
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folders["high"] / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folders["high"] / "no tensors.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (folders["high"] / "an empty folder").mkdir()
    save_file(low, folders["int8"] / "model.safetensors")
    (folders["int8"] / "nested" / "noise.bin").write_bytes(rng.bytes(5001))
    for folder in folders.values():
        (folder / "config.json").write_text('{"model_type": "none"}\n', encoding="utf-8")
        (folder / "nested" / "größe.txt").write_bytes(b"")
    return folders


def bits_in_words(codes: Floats, bits: int) -> Floats:
    """Rows of codes as rows of words, low bits first, as GPTQ's format packs them."""
    stream = (codes.astype(np.uint32)[..., None] >> np.arange(bits, dtype=np.uint32) & 1).astype(np.uint8)
    return np.packbits(stream.reshape(codes.shape[0], -1), axis=1, bitorder="little").view("<i4")


@np.errstate(all="ignore")
def gptq(weights: Floats, how: Gptq, rng: np.random.Generator, lists_groups: bool = True) -> dict[str, Floats]:
    """The tensors of a matrix, most of its codes rounded to nearest, and some moved as error feedback does."""
    bits, size, any_order, asymmetric, dtype, lacks = how
    rows, cols = weights.shape
    groups = np.arange(cols) // size
    if any_order:
        rng.shuffle(groups)
    most = (1 << bits) - 1
    zeros = np.full((groups.max() + 1, rows), (most + 1) // 2)
    if asymmetric:
        zeros = zeros - rng.integers(0, most // 3 + 1, zeros.shape)
    values = np.nan_to_num(weights.astype(np.float32), posinf=1, neginf=-1)
    largest = np.array([np.abs(values[:, groups == group]).max(axis=1) for group in range(len(zeros))])
    largest[largest == 0] = 1  # as GPTQ has it
    scales = (largest / np.minimum(zeros, most - zeros)).astype(dtype)
    codes = values / scales.astype(np.float32)[groups].T + zeros[groups].T
    codes = np.nan_to_num(codes + rng.choice([0, 0, 0, 0, 1, -1], codes.shape))
    packed = bits_in_words(np.clip(np.rint(codes), 0, most), bits)
    tensors = {
        "qweight": np.ascontiguousarray(packed.T),
        "qzeros": bits_in_words(zeros - lacks & most, bits),
        "scales": scales,
    }
    return tensors | {"g_idx": groups.astype(np.int32)} if lists_groups else tensors


def write_chain(root: Path, dtype: npt.DTypeLike, original: npt.DTypeLike, large: bool = False) -> dict[str, Path]:
    """The folders of weights in `dtype` that were once `original`, and of their quantised twins."""
    rng = np.random.default_rng(22)
    high: dict[str, Floats] = {}
    variants: dict[str, dict[str, Floats]] = {name: {} for name in ("int8", *CHAIN)}

    def add(name: str, rows: int, cols: int, change: Callable[[Floats], object] | None = None) -> None:
        weights = (rng.standard_normal((rows, cols)) * 0.02).astype(original).astype(dtype)
        if change:
            change(weights)
        # Other codes in LLM.int8() than the weights', for half of the matrices: these are given steps.
        other = weights.astype(np.float32) * np.float32(1.01)
        codes, scale = quantize(other.astype(dtype) if name.startswith("moved") else weights)
        variants["int8"] |= {f"{name}.weight": codes, f"{name}.SCB": scale}
        for variant, how in CHAIN.items():
            tensors = gptq(weights, how, rng, lists_groups=variant != "gptq3").items()
            variants[variant] |= {f"{name}.{part}": tensor for part, tensor in tensors}
        high[f"{name}.weight"] = weights

    def odd(weights: Floats) -> None:
        special = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-7, -6e-8, 3e-41, 7.0, -9.0, 1e4])
        at = rng.choice(weights.size, special.size * 9, replace=False)
        weights.reshape(-1)[at] = np.tile(special, 9).astype(dtype)

    def zeros(weights: Floats) -> None:
        weights[::3] = 0
        weights[:, ::7] *= -0.0

    def of_many_sizes(weights: Floats) -> None:
        weights *= np.exp2(rng.integers(-20, 9, (len(weights), 1))).astype(dtype)

    # Too long for a bundle even in 2 bits.
    add("plain", 192, 384)
    add("moved", 96, 192)
    add("moved_odd", 64, 384, odd)
    add("moved_zeros", 64, 192, zeros)
    add("moved_sizes", 128, 192, of_many_sizes)
    if large:
        # Two chunks; and more than a million elements, so 128 lanes.
        add("moved_long", 1440, 384)
        add("wide", 1120, 960)
        add("moved_wide", 1120, 960)
    # As GPT-2 keeps them: the codes are those of the transposed matrix.
    for name in "turned", "moved_turned":
        add(name, 160, 384)
        high[f"{name}.weight"] = np.ascontiguousarray(high[f"{name}.weight"].T)
    high["embedding.weight"] = (rng.standard_normal((300, 200)) * 1e-4).astype(original).astype(dtype)
    return save_all(root, {"high": high} | variants)


def save_all(root: Path, variants: dict[str, dict[str, Floats]]) -> dict[str, Path]:
    folders = {name: root / name for name in variants}
    for name, tensors in variants.items():
        folders[name].mkdir(parents=True)
        save_file(tensors, folders[name] / "model.safetensors", {"format": "pt"})
    return folders


@np.errstate(all="ignore")
def fp8(weights: Floats, side: int = 128) -> tuple[Floats, Floats]:
    """Codes, and the scale of each block, as DeepSeek has them."""
    rows, cols = weights.shape
    values = weights.astype(np.float32)
    blocks = np.pad(np.abs(values), [(0, -rows % side), (0, -cols % side)])
    largest = blocks.reshape(-(-rows // side), side, -(-cols // side), side).max(axis=(1, 3))
    scales = largest / np.float32(448)
    factors = np.float32(1) / scales
    of_elements = factors.repeat(side, axis=0)[:rows].repeat(side, axis=1)[:, :cols]
    return (values * of_elements).astype(ml_dtypes.float8_e4m3fn), scales


def drawn(dtype: npt.DTypeLike, rng: np.random.Generator, *shape: int) -> Floats:
    return (rng.standard_normal(shape) * 0.02).astype(np.float32).astype(dtype)


@pytest.fixture(scope="session")
def binary() -> Path:
    """The binary under test. Never skipped: a test that passes without its subject says nothing."""
    path = os.environ.get("QSTORE_BIN")
    if not path:
        pytest.fail("set QSTORE_BIN to the qstore binary (cargo build --release makes target/release/qstore)")
    if not os.access(path, os.X_OK):
        pytest.fail(f"QSTORE_BIN names no executable: {path}")
    return Path(path).resolve()


@pytest.fixture(scope="session", params=DTYPES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pair(tmp_path_factory.mktemp(request.param), DTYPES[request.param])


@pytest.fixture(scope="session")
def bf16_pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pair(tmp_path_factory.mktemp("bf16"), ml_dtypes.bfloat16)


def pack(binary: Path, folders: dict[str, Path], store: Path, *options: str) -> Store:
    variants = [f"{name}={folder}" for name, folder in folders.items()]
    command = [str(binary), "pack", *variants, "-o", str(store), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}{done.stdout}"
    return Store(store)


def plans(store: Store) -> list[dict[str, Any]]:
    return [array.plan for name in store.variants for array in store.contents(name).arrays.values()]


def kinds(store: Store) -> set[str]:
    return {plan["encoding"]["kind"] for plan in plans(store)}


def tree(folder: Path) -> set[str]:
    """Everything below a folder, folders with a slash at their end."""
    below = folder.rglob("*")
    return {path.relative_to(folder).as_posix() + "/" * path.is_dir() for path in below}


def assert_restores(store: Store, folders: dict[str, Path], target: Path) -> None:
    assert set(store.variants) == set(folders)
    for name, original in folders.items():
        store.restore(name, target / name)
        assert tree(target / name) == tree(original)
        for path in (path for path in tree(original) if not path.endswith("/")):
            assert filecmp.cmp(target / name / path, original / path, shallow=False), f"{path} of {name} differs"


def test_restores_what_the_binary_packs(binary: Path, pair: dict[str, Path], tmp_path: Path) -> None:
    store = pack(binary, pair, tmp_path / "store")
    assert_restores(store, pair, tmp_path / "restored")
    # Otherwise this test says less than it seems to.
    assert kinds(store) == KINDS
    assert max(array.records.size for array in store.contents("high").arrays.values()) > 1


def test_meets_every_rounding(binary: Path, bf16_pair: dict[str, Path], tmp_path: Path) -> None:
    """Each matrix of `RULES` was quantised with a factor of its own; BF16 tells them apart."""
    encodings = [plan["encoding"] for plan in plans(pack(binary, bf16_pair, tmp_path / "store"))]
    rules = [encoding["given"]["values"]["rule"] for encoding in encodings if encoding["kind"] == "residual"]
    assert {rule["inverse"] for rule in rules} == set(RULES)


def test_restores_from_a_verbatim_variant(binary: Path, bf16_pair: dict[str, Path], tmp_path: Path) -> None:
    store = pack(binary, bf16_pair, tmp_path / "store", "--verbatim", "int8")
    assert_restores(store, bf16_pair, tmp_path / "restored")
    assert {"verbatim", "residual"} <= kinds(store)


@pytest.mark.parametrize("dtype", [*DTYPES, "fp16 that was bf16"])
def test_restores_chains(binary: Path, tmp_path: Path, dtype: str) -> None:
    short = dtype not in DTYPES
    high = DTYPES["fp16" if short else dtype]
    original, large = ml_dtypes.bfloat16 if short else high, dtype == "bf16"
    folders = write_chain(tmp_path / "folders", high, original, large)
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    # Otherwise this test says less than it seems to.
    assert kinds(store) >= {"codes", "code-residual", "step-residual", "residual"}
    found = plans(store)
    steps = [plan for plan in found if plan["encoding"]["kind"] in ("step-residual", "refine-floats")]
    assert {plan["encoding"].get("transposed", False) for plan in steps} == {False, True}
    assert any(plan.get("mantissa") == 7 for plan in steps) == short
    own = [plan["encoding"]["own"] for plan in found if plan["encoding"]["kind"] == "code-residual"]
    assert {values["levels"] for values in own} == {"signed", "unsigned"}


@pytest.mark.parametrize("below", CHAIN)
def test_restores_floats_given_each(binary: Path, tmp_path: Path, below: str) -> None:
    """Of one lower variant alone codes are packed, and floats given its steps."""
    folders = write_chain(tmp_path / "folders", ml_dtypes.bfloat16, ml_dtypes.bfloat16)
    folders = {name: folders[name] for name in ("high", below)}
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    found = [plan["encoding"] for plan in plans(store)]
    bits = {encoding["layout"]["packing"]["bits"] for encoding in found if "layout" in encoding}
    assert bits == {CHAIN[below].bits}
    assert {"step-residual", "refine-floats"} & kinds(store)


@pytest.mark.parametrize("dtype", DTYPES)
def test_restores_small_floats_of_blocks(binary: Path, tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(23)
    high: dict[str, Floats] = {}
    low: dict[str, Floats] = {}
    for rows, cols in (256, 384), (300, 200), (128, 128), (70, 64), (129, 130), (1030, 1100):
        name = f"of_{rows}x{cols}.up_proj"
        weights = drawn(DTYPES[dtype], rng, rows, cols)
        if cols == 130:
            weights[:, ::13] *= -0.0
            weights[128:] = 0
        high[f"{name}.weight"] = weights
        low[f"{name}.weight"], low[f"{name}.weight_scale_inv"] = fp8(weights)
    folders = save_all(tmp_path / "folders", {"high": high, "fp8": low})
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    given = [plan["encoding"]["given"]["values"] for plan in plans(store) if plan["encoding"]["kind"] == "residual"]
    assert len(given) == 6
    assert all(values["levels"] == {"float": "e4m3"} for values in given)


def compressed_ints(weights: Floats, symmetric: bool) -> dict[str, Floats]:
    """The parts of `pack-quantized` of compressed-tensors, 4 bits in groups of 128: divided in BF16."""
    rows, cols = weights.shape
    in_bf16 = lambda values: values.astype(ml_dtypes.bfloat16).astype(np.float32)
    groups = weights.astype(np.float32).reshape(rows, -1, 128)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scale = in_bf16(np.abs(groups).max(-1) / np.float32(7.5) if symmetric else (high - low) / np.float32(15))
    zero = np.zeros_like(scale) if symmetric else np.clip(np.rint(-8 - in_bf16(low / scale)), -8, 7)
    levels = in_bf16(in_bf16(groups / scale[..., None]) + zero[..., None])
    codes = (np.clip(np.rint(levels), -8, 7) + 8).astype(np.uint32).reshape(rows, cols)
    places = np.arange(0, 32, 4, dtype=np.uint32)
    packed = lambda codes: (codes.reshape(*codes.shape[:-1], -1, 8) << places).sum(-1, dtype=np.uint32).view(np.int32)
    parts = {
        "weight_packed": packed(codes),
        "weight_scale": scale.astype(ml_dtypes.bfloat16),
        "weight_shape": np.array([rows, cols], np.int64),
    }
    if not symmetric:
        parts["weight_zero_point"] = np.ascontiguousarray(packed((zero + 8).astype(np.uint32).T).T)
    return parts


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("above", ["fp8", None])
def test_restores_given_codes_of_rounded_quotients(
    binary: Path, tmp_path: Path, symmetric: bool, above: str | None
) -> None:
    """What lies between bins goes where rounding to BF16 takes it (8.6)."""
    rng = np.random.default_rng(31)
    variants: dict[str, dict[str, Floats]] = {"high": {}, "w4": {}} | ({above: {}} if above else {})
    for rows, cols in (256, 384), (128, 128), (64, 512):
        name = f"of_{rows}x{cols}.up_proj"
        weights = drawn(ml_dtypes.bfloat16, rng, rows, cols)
        variants["high"][f"{name}.weight"] = weights
        parts = compressed_ints(weights, symmetric)
        variants["w4"] |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
        if above:
            variants["fp8"][f"{name}.weight"], variants["fp8"][f"{name}.weight_scale_inv"] = fp8(weights)
    folders = save_all(tmp_path / "folders", variants)
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    known = [one for plan in plans(store) for one in plan["encoding"].get("known", [])]
    results = {one["matrix"]["values"].get("rule", {}).get("result") for one in known}
    assert "bf16" in results


def mlx(weights: Floats, bits: int) -> dict[str, Floats]:
    """The parts of MLX's affine quantisation in groups of 64: each has an edge that is a whole number of steps."""
    groups = weights.astype(np.float32).reshape(weights.shape[0], -1, 64)
    most, low, high = np.float32((1 << bits) - 1), groups.min(-1), groups.max(-1)
    step = np.maximum((high - low) / most, np.float32(1e-7))
    step, edge = np.where(-low > high, step, -step), np.where(-low > high, low, high)
    steps = np.rint(edge / step)
    step = np.where(steps == 0, step, edge / np.where(steps == 0, 1, steps)).astype(np.float32)
    bias = np.where(steps == 0, 0, edge).astype(np.float32)
    codes = np.clip(np.rint((groups - bias[..., None]) / step[..., None]), 0, most).astype(np.uint8)
    stream = (codes.reshape(weights.shape[0], -1, 1) >> np.arange(bits) & 1).reshape(weights.shape[0], -1)
    words = np.packbits(stream, axis=1, bitorder="little").view(np.uint32)
    in_bf16 = lambda values: values.astype(ml_dtypes.bfloat16)
    return {"weight": words, "scales": in_bf16(step), "biases": in_bf16(bias)}


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_restores_given_anchored_scales(binary: Path, tmp_path: Path, bits: int) -> None:
    """MLX's, whose stored scales are rounded ones (9.1)."""
    rng = np.random.default_rng(33)
    variants: dict[str, dict[str, Floats]] = {"high": {}, "mlx": {}}
    for rows, cols in (256, 384), (128, 128):
        name = f"of_{rows}x{cols}.up_proj"
        weights = drawn(ml_dtypes.bfloat16, rng, rows, cols)
        weights[3, :64] = 0
        variants["high"][f"{name}.weight"] = weights
        variants["mlx"] |= {f"{name}.{part}": tensor for part, tensor in mlx(weights, bits).items()}
    folders = save_all(tmp_path / "folders", variants)
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    known = [one for plan in plans(store) for one in plan["encoding"].get("known", [])]
    assert {one["matrix"]["values"]["rule"]["inverse"] for one in known} == {"anchored"}
    store = pack(binary, folders, tmp_path / "archive", "--archive", "mlx")
    assert_restores(store, folders, tmp_path / "restored again")
    assert "rounded" in kinds(store)


def test_restores_given_moved_codes_of_negative_scales(binary: Path, tmp_path: Path) -> None:
    """AutoRound's: distances are those to the other side (8.8)."""
    rng = np.random.default_rng(32)
    variants: dict[str, dict[str, Floats]] = {"high": {}, "gptq4": {}}
    for rows, cols in (256, 384), (128, 128):
        name = f"of_{rows}x{cols}.up_proj"
        weights = drawn(ml_dtypes.bfloat16, rng, rows, cols)
        variants["high"][f"{name}.weight"] = weights
        tensors = gptq(weights, Gptq(4, 64, False, False, np.float16, 1), rng, lists_groups=False)
        # The codes of every other output count down from the middle.
        scales, words = tensors["scales"].copy(), tensors["qweight"].view(np.uint32).copy()
        codes = words[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15
        turned = np.minimum(16 - codes, 15).astype(np.uint32)
        codes[:, 1::2] = turned[:, 1::2]
        scales[:, 1::2] *= -1
        words = (codes << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32)
        tensors |= {"scales": scales, "qweight": words.view(np.int32)}
        variants["gptq4"] |= {f"{name}.{part}": tensor for part, tensor in tensors.items()}
    folders = save_all(tmp_path / "folders", variants)
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    known = [one for plan in plans(store) for one in plan["encoding"].get("known", [])]
    assert len(known) == 2
    assert all("around" in one for one in known)


@pytest.mark.parametrize("dtype", [*DTYPES, "fp16 that was bf16"])
def test_restores_what_is_given_several(binary: Path, tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(25)
    variants: dict[str, dict[str, Floats]] = {"high": {}, "fp8": {}, "int8": {}, "gptq8": {}}
    for rows, cols in (256, 384), (320, 200), (128, 128), (64, 72), (1056, 1096):
        name = f"of_{rows}x{cols}.up_proj"
        weights = drawn(DTYPES.get(dtype, ml_dtypes.bfloat16), rng, rows, cols)
        weights[rng.random(weights.shape) < 0.01] = 0
        weights[-1] = 0
        if cols == 128:
            # What no quantiser tells anything of.
            weights[5, :5] = np.array([np.nan, np.inf, -np.inf, 60000, -0.0], np.float32).astype(weights.dtype)
            weights[9] = np.exp2(-rng.integers(10, 30, 128).astype(np.float32)).astype(weights.dtype)
        if dtype not in DTYPES:
            weights = weights.astype(np.float16)
        with np.errstate(all="ignore"):
            known = np.nan_to_num(weights.astype(np.float32), posinf=0, neginf=0)
        variants["high"][f"{name}.weight"] = weights
        variants["fp8"][f"{name}.weight"], variants["fp8"][f"{name}.weight_scale_inv"] = fp8(known)
        variants["int8"][f"{name}.weight"], variants["int8"][f"{name}.SCB"] = quantize(known)
        tensors = gptq(known, Gptq(8, 64, False, True, np.float16, 1), rng)
        variants["gptq8"] |= {f"{name}.{part}": tensor for part, tensor in tensors.items()}
    folders = save_all(tmp_path / "folders", variants)
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    assert {"refine", "refine-floats"} <= kinds(store)
    store = pack(binary, folders, tmp_path / "archive", "--archive", "int8,gptq8")
    assert_restores(store, folders, tmp_path / "restored again")
    assert {"rounded", "residual"} <= kinds(store)


@pytest.mark.parametrize("of_four", DTYPES)
@pytest.mark.parametrize("of_eight", DTYPES)
def test_restores_scales_near_scales(binary: Path, tmp_path: Path, of_four: str, of_eight: str) -> None:
    rng = np.random.default_rng(26)
    variants: dict[str, dict[str, Floats]] = {"g4": {}, "g8": {}}
    for rows, cols, is_odd in (512, 256, False), (96, 1024, True), (64, 128, False):
        weights = drawn(np.float32, rng, rows, cols)
        for name, bits, scales in (("g4", 4, of_four), ("g8", 8, of_eight)):
            tensors = gptq(weights, Gptq(bits, 32, False, False, DTYPES[scales], 1), rng)
            off = 1 + rng.standard_normal(tensors["scales"].shape) * 0.003
            tensors["scales"] = (tensors["scales"].astype(np.float32) * off).astype(DTYPES[scales])
            if is_odd:
                odd = np.array([np.nan, np.inf, -np.inf, -0.0, 0, -1e-3, 1e-7, 6e4], np.float32)
                with np.errstate(over="ignore"):
                    tensors["scales"][:, :8] = odd.astype(DTYPES[scales])[rng.permutation(8)]
            variants[name] |= {f"of_{rows}x{cols}.up_proj.{part}": tensor for part, tensor in tensors.items()}
    folders = save_all(tmp_path / "folders", variants)
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    near = [plan for plan in plans(store) if plan["encoding"]["kind"] == "near"]
    # Of the smallest there are fewer scales than is worth an array.
    assert sorted(plan["shape"] for plan in near) == [[8, 512], [32, 96]]
    assert all(abs(float(plan["encoding"]["times"]) - 7 / 127) < 0.03 for plan in near)


@pytest.mark.parametrize("size", [16, 40])
@pytest.mark.parametrize("any_order", [False, True])
def test_restores_floats_given_small_groups(binary: Path, tmp_path: Path, size: int, any_order: bool) -> None:
    rng = np.random.default_rng(24)
    how = Gptq(4, size, any_order, True, np.float16, 1)
    high: dict[str, Floats] = {}
    low: dict[str, Floats] = {}
    for rows, cols, listed in (96, 240, True), (64, 400, any_order):
        name = f"of_{cols}.up_proj"
        high[f"{name}.weight"] = drawn(ml_dtypes.bfloat16, rng, rows, cols)
        tensors = gptq(high[f"{name}.weight"], how, rng, listed)
        low |= {f"{name}.{part}": tensor for part, tensor in tensors.items()}
    folders = save_all(tmp_path / "folders", {"high": high, "gptq": low})
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    given_one = ("step-residual", "refine-floats")
    assert len([plan for plan in plans(store) if plan["encoding"]["kind"] in given_one]) == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_restores_floats_that_were_made_of_codes(binary: Path, tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(28)
    codes, scale = quantize(drawn(ml_dtypes.bfloat16, rng, 96, 256))
    made = ((scale / np.float32(127))[:, None] * codes.astype(np.float32)).astype(DTYPES[dtype])
    made[3, 4:7] = 1
    low = {"x.up_proj.weight": codes, "x.up_proj.SCB": scale}
    folders = save_all(tmp_path / "folders", {"made": {"x.up_proj.weight": made}, "int8": low})
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    assert "dequantized" in kinds(store)


@pytest.mark.parametrize("of", ["columns", "both"])
def test_restores_floats_that_were_multiplied_before(binary: Path, tmp_path: Path, of: str) -> None:
    """As AWQ does it: columns, and rows, have factors that are in no file."""
    rng = np.random.default_rng(27)
    high = drawn(ml_dtypes.bfloat16, rng, 192, 256)
    factors = np.exp(rng.standard_normal((1, 256)) * 0.5)
    if of == "both":
        factors = factors * np.exp(rng.standard_normal((192, 1)) * 0.5)
    low = gptq(
        (high.astype(np.float32) * factors).astype(ml_dtypes.bfloat16), Gptq(4, 64, False, True, np.float16, 1), rng
    )
    low = {f"x.up_proj.{part}": tensor for part, tensor in low.items()}
    folders = save_all(tmp_path / "folders", {"high": {"x.up_proj.weight": high}, "gptq": low})
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    known = [known for plan in plans(store) for known in plan["encoding"].get("known", [])]
    assert [each.get("factors") for each in known] == [of]


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("pad", [(0, 64), (32, 0), (32, 64), (40, 96)])
def test_restores_what_was_padded(binary: Path, tmp_path: Path, pad: tuple[int, int], asymmetric: bool) -> None:
    """Matrices that got rows or columns of zeros before they were quantised, beside those that did not."""
    rng = np.random.default_rng(25)
    high: dict[str, Floats] = {}
    low: dict[str, dict[str, Floats]] = {name: {} for name in ("int8", "gptq8", "gptq4", "gptq3")}
    for name in "plain.up_proj", "other.up_proj":
        weights = drawn(ml_dtypes.bfloat16, rng, 96, 192)
        padded = np.pad(weights, [(0, pad[0]), (0, pad[1])])
        high[f"{name}.weight"] = weights
        codes, scale = quantize(weights)
        low["int8"] |= {f"{name}.weight": codes, f"{name}.SCB": scale}
        for variant, of in ("gptq8", padded), ("gptq4", padded), ("gptq3", weights):
            how = Gptq(int(variant[-1]), 32, False, asymmetric, np.float16, 1)
            tensors = gptq(of, how, rng, name.startswith("plain"))
            low[variant] |= {f"{name}.{part}": tensor for part, tensor in tensors.items()}
    for number, names in enumerate((["gptq4"], ["gptq8", "int8"], ["gptq3", "gptq4"], ["gptq8", "gptq4", "gptq3"])):
        variants = {"high": high} | {name: low[name] for name in names}
        folders = save_all(tmp_path / f"folders-{number}", variants)
        store = pack(binary, folders, tmp_path / f"store-{number}")
        assert_restores(store, folders, tmp_path / f"restored-{number}")
        given = [plan["encoding"]["given"] for plan in plans(store) if "given" in plan["encoding"]]
        assert len(given) == 2 * len(names)


@pytest.mark.parametrize("pads", [((32, 0), (0, 64)), ((0, 64), (32, 0)), ((32, 64), (64, 128))])
def test_restores_what_was_padded_otherwise(
    binary: Path, tmp_path: Path, pads: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    """One variant got rows of zeros, the other columns; or one more of both."""
    rng = np.random.default_rng(26)
    weights = drawn(ml_dtypes.bfloat16, rng, 96, 192)
    variants = {}
    for bits, (rows, cols) in zip((4, 8), pads, strict=True):
        padded = np.pad(weights, [(0, rows), (0, cols)])
        tensors = gptq(padded, Gptq(bits, 32, False, True, np.float16, 1), rng)
        variants[f"gptq{bits}"] = {f"a.up_proj.{part}": tensor for part, tensor in tensors.items()}
    folders = save_all(tmp_path / "folders", variants)
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    assert "code-residual" in kinds(store)


def test_restores_given_zero_points_off_the_middle_in_padding_alone(binary: Path, tmp_path: Path) -> None:
    """These count, too, for where the last bin ends (9.5)."""
    rng = np.random.default_rng(27)
    weights = drawn(ml_dtypes.bfloat16, rng, 96, 192)
    for axis, pad in enumerate(([(0, 32), (0, 0)], [(0, 0), (0, 64)])):
        tensors = gptq(np.pad(weights, pad), Gptq(8, 32, False, False, np.float16, 0), rng)
        zeros = tensors["qzeros"].view(np.uint8)
        assert (zeros == 128).all()
        if axis:
            zeros[6:] = 90
        else:
            zeros[:, 96:] = 90
        low = {f"a.up_proj.{part}": tensor for part, tensor in tensors.items()}
        folders = save_all(tmp_path / f"folders-{axis}", {"high": {"a.up_proj.weight": weights}, "gptq": low})
        store = pack(binary, folders, tmp_path / f"store-{axis}")
        assert_restores(store, folders, tmp_path / f"restored-{axis}")
        assert {"step-residual", "refine-floats"} & kinds(store)


def test_restores_chains_above_a_verbatim_variant(binary: Path, tmp_path: Path) -> None:
    folders = write_chain(tmp_path / "folders", ml_dtypes.bfloat16, ml_dtypes.bfloat16)
    store = pack(binary, folders, tmp_path / "store", "--verbatim", "gptq2")
    assert_restores(store, folders, tmp_path / "restored")


def test_restores_variants_that_are_given_few(binary: Path, tmp_path: Path) -> None:
    folders = write_chain(tmp_path / "folders", ml_dtypes.bfloat16, ml_dtypes.bfloat16)
    options = ("--given", "high:gptq4", "--independent", "gptq3")
    store = pack(binary, folders, tmp_path / "store", *options)
    assert_restores(store, folders, tmp_path / "restored")
    only = {name: variant.get("given_only") for name, variant in store.variants.items()}
    assert only == dict.fromkeys(only) | {"high": ["gptq4"], "gptq3": []}


def test_restores_from_small_shards(binary: Path, bf16_pair: dict[str, Path], tmp_path: Path) -> None:
    store = pack(binary, bf16_pair, tmp_path / "store", "--shard-size", "100000")
    assert_restores(store, bf16_pair, tmp_path / "restored")
    assert all(len(variant["shards"]) > 2 for variant in store.variants.values())


def test_restores_very_many_small_tensors(binary: Path, tmp_path: Path) -> None:
    """Several bundles of each type, in several shards, beside a tensor that is named like one."""
    rng = np.random.default_rng(11)
    tensors: dict[str, Floats] = {"bundle:0": np.array([1, 2, 3], np.uint8)}
    for index in range(1500):
        drawn = rng.standard_normal((index % 4, index % 50 * 5)).astype(np.float32)
        tensors[f"blocks.{index}"] = drawn.astype([np.float32, ml_dtypes.bfloat16, np.int8][index % 3])
    folder = tmp_path / "small"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    for number, options in enumerate(((), ("--shard-size", "100kB"))):
        store = pack(binary, {"small": folder}, tmp_path / f"store-{number}", *options)
        bundles = [key for key in store.contents("small").arrays if key.startswith("bundle:")]
        assert len(bundles) > 3
        assert_restores(store, {"small": folder}, tmp_path / f"restored-{number}")


def write_experts(root: Path, turned: bool, interleaved: bool) -> dict[str, Path]:
    """The folders of experts as tensors of all of them in BF16, and as a tensor each in LLM.int8() and in BF16."""
    rng = np.random.default_rng(41)
    layer, (experts, inner, hidden) = "model.layers.0.mlp", (4, 96, 160)
    shapes = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    drawn_ones = {name: drawn(ml_dtypes.bfloat16, rng, experts, *shape) for name, shape in shapes.items()}
    each: dict[str, Floats] = {"model.norm.weight": 1 + drawn(ml_dtypes.bfloat16, rng, hidden)}
    int8 = dict(each)
    for name, matrices in drawn_ones.items():
        for expert, weights in enumerate(matrices):
            whole = f"{layer}.experts.{expert}.{name}"
            each[f"{whole}.weight"] = weights
            int8[f"{whole}.weight"], int8[f"{whole}.SCB"] = quantize(weights)
    gate, up, down = drawn_ones.values()
    gate_up = np.stack([gate, up], axis=2 if interleaved else 1).reshape(experts, 2 * inner, hidden)
    all_in_one = {"gate_up_proj": gate_up, "down_proj": down}
    fused = {"model.norm.weight": each["model.norm.weight"]}
    for name, tensor in all_in_one.items():
        fused[f"{layer}.experts.{name}"] = np.ascontiguousarray(tensor.swapaxes(1, 2) if turned else tensor)
    return save_all(root, {"fused": fused, "each": each, "int8": int8})


#: Variants of experts, options, and what the experts of the first one are then, apart from the tensors of parts.
EXPERTS: list[tuple[list[str], tuple[str, ...], set[str]]] = [
    (["fused", "int8"], (), {"residual"}),
    (["fused", "each"], (), {"reference"}),
    (["fused", "each", "int8"], (), {"reference"}),
    (["each", "fused"], ("--given", "each:fused"), {"reference with a view"}),
    (["each", "fused", "int8"], ("--given", "each:fused"), {"reference"}),
    (
        ["each", "fused", "int8"],
        ("--given", "each:fused", "--independent", "fused"),
        {"reference with a view"},
    ),
]


@pytest.mark.parametrize("interleaved", [False, True], ids=["side by side", "in turn"])
@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
@pytest.mark.parametrize(("names", "options", "expected"), EXPERTS)
def test_restores_experts(
    binary: Path,
    tmp_path: Path,
    names: list[str],
    options: tuple[str, ...],
    expected: set[str],
    turned: bool,
    interleaved: bool,
) -> None:
    """Tensors of several matrices, which are stored as parts, or referred to by way of views."""
    folders = write_experts(tmp_path / "folders", turned, interleaved)
    folders = {name: folders[name] for name in names}
    store = pack(binary, folders, tmp_path / "store", *options)
    assert_restores(store, folders, tmp_path / "restored")
    # Otherwise this test says less than it seems to.
    arrays = [array for key, array in store.contents(names[0]).arrays.items() if "expert" in key or "part:" in key]
    views = [part["view"] for array in arrays if array.kind == "parts" for part in array.plan["encoding"]["parts"]]
    found = [array.kind + " with a view" * ("view" in array.plan["encoding"]) for array in arrays]
    assert {kind for kind in found if kind != "parts"} == expected
    assert found.count("parts") == (2 if names[0] == "fused" else 0)
    views += [array.plan["encoding"]["view"] for array in arrays if "view" in array.plan["encoding"]]
    if views:
        assert len(views) == 12
        assert {view.get("transposed", False) for view in views} == {turned}
        assert {tuple(view["order"]) for view in views if "order" in view} == ({(96, 2)} if interleaved else set())
    if names[0] == "each":
        assert {array.plan["encoding"]["to"]["variant"] for array in arrays} == {"fused"}
        assert bool(views) or any("part:" in key for key in store.contents("fused").arrays)


def test_restores_codes_that_a_sample_misses(binary: Path, tmp_path: Path) -> None:
    """Tables of a large tensor come from some of its rows; a rare code elsewhere has no symbol."""
    rng = np.random.default_rng(21)
    codes = np.clip(rng.normal(0, 2, (6000, 512)), -40, 40).astype(np.int8)
    codes.reshape(-1)[rng.choice(codes.size, 20, replace=False)] = np.arange(100, 120)
    (tmp_path / "int8").mkdir()
    save_file({"codes": codes}, tmp_path / "int8" / "model.safetensors")
    store = pack(binary, {"int8": tmp_path / "int8"}, tmp_path / "store")
    assert kinds(store) >= {"codes"}
    assert_restores(store, {"int8": tmp_path / "int8"}, tmp_path / "restored")


def test_shards_are_safetensors(binary: Path, bf16_pair: dict[str, Path], tmp_path: Path) -> None:
    store = pack(binary, bf16_pair, tmp_path / "store")
    for name, variant in store.variants.items():
        for entry in variant["shards"]:
            path = store.folder / entry["name"]
            tail = path.read_bytes()[-sum(entry["tail"].values()) :]
            assert entry["id"] == xxhash.xxh3_128_hexdigest(tail)
            assert entry["name"] == f"{name}-{entry['id'][:12]}.safetensors"
            with safe_open(path, framework="np") as shard:
                sections = {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118
                metadata = shard.metadata()
            assert all(section.dtype == np.uint8 and section.ndim == 1 for section in sections.values())
            assert metadata == {"format": "qstore", "format_version": "1"}
            assert tail == b"".join(sections.pop(f"qstore.{part}").tobytes() for part in entry["tail"])
            stored = {
                key
                for key, array in store.contents(name).arrays.items()
                if array.plan["encoding"]["kind"] not in ("reference", "verbatim", "slice", "parts")
            }
            assert set(sections) == stored


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("part", ["header", "first stream", "qstore.tables", "qstore.chunks", "qstore.plan"])
def test_notices_a_flipped_bit(binary: Path, bf16_pair: dict[str, Path], tmp_path: Path, part: str) -> None:
    store = pack(binary, {"int8": bf16_pair["int8"]}, tmp_path / "store")
    path = store.folder / store.variants["int8"]["shards"][0]["name"]
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    ends = {key: start + stream["data_offsets"][1] for key, stream in header.items() if key != "__metadata__"}
    ends |= {"header": start, "first stream": start + 1}
    flip(path, ends[part] - 1)
    with pytest.raises(DamageError):
        Store(store.folder).restore("int8", tmp_path / "restored")


@pytest.mark.parametrize(
    ("old", "new"),
    [('"format_version":"1"', '"format_version":"2"'), ('"dtype":"U8"', '"dtype":"I8"'), ("tensor:", "file:  ")],
)
def test_notices_another_header(binary: Path, bf16_pair: dict[str, Path], tmp_path: Path, old: str, new: str) -> None:
    """Other tools read it, so it has to be what follows from the rest, though nothing pins it."""
    store = pack(binary, {"int8": bf16_pair["int8"]}, tmp_path / "store")
    path = store.folder / store.variants["int8"]["shards"][0]["name"]
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[:end].replace(old.encode(), new.encode(), 1)
    assert header != data[:end]
    path.write_bytes(header + data[end:])
    with pytest.raises(DamageError, match="header"):
        Store(store.folder).restore("int8", tmp_path / "restored")


def test_notices_another_manifest(binary: Path, bf16_pair: dict[str, Path], tmp_path: Path) -> None:
    store = pack(binary, {"int8": bf16_pair["int8"]}, tmp_path / "store")
    manifest = store.folder / "qstore.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("I8", "U8"), encoding="utf-8")
    with pytest.raises(DamageError):
        Store(store.folder)


def test_golden_stores_are_there() -> None:
    assert GOLDEN_CASES, f"no golden stores in {GOLDEN}"


@pytest.mark.parametrize("case", GOLDEN_CASES, ids=lambda case: case.relative_to(GOLDEN).as_posix())
def test_restores_a_golden_store(case: Path) -> None:
    """What old releases wrote, against the list that they wrote beside it."""
    store = Store(case / "store")
    restored = [
        f"{hashlib.sha256(data).hexdigest()}  {variant}/{path}"
        for variant in store.variants
        for path, data in store.files(variant)
    ]
    expected = (case / "expected.sha256").read_text(encoding="utf-8")
    assert sorted(restored) == sorted(expected.splitlines())


# What no producer needs yet, or no store of these tests has: the decoder's arithmetic by itself.

#: The small floats as another library has them.
SMALL_DTYPES = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
}
#: AWQ's packing: place `i` of a word has number AWQ[i].
AWQ = [0, 2, 4, 6, 1, 3, 5, 7]


def part(array: Floats, dtype: str) -> Part:
    return Part(dtype, list(array.shape), np.ascontiguousarray(array).tobytes())


def field_of(name: str, **other: object) -> Json:
    return {"array": {"variant": "made up", "array": name}, **other}


def numbers_of(name: str, number: str, tile: list[int], **other: object) -> Json:
    return {"numbers": {"field": field_of(name, **other), "number": number, "tile": tile}}


class Described(NamedTuple):
    """A made-up matrix: its codes, and what they stand for."""

    codes: Floats
    values: Values

    @classmethod
    def of(cls, parts: dict[str, Part], quant: Json) -> Described:
        def fetch(ref: Json) -> Part:
            return parts[ref["array"]]

        field = Field.of(quant["codes"], fetch)
        rows, cols = quant["shape"]
        codes = field.codes()
        return cls(codes[:rows, :cols], Values.of(quant["values"], [rows, cols], field.packing, fetch))

    @np.errstate(all="ignore")
    def weights(self) -> Floats:
        """`scale * (level - zero)`."""
        scales, zeros = self.values.of_elements()
        levels = self.values.levels.of_codes(self.codes).astype(np.float32)
        return np.asarray(scales * (levels - zeros.astype(np.float32)))


def nvfp4(rng: np.random.Generator, rows: int, cols: int) -> tuple[Described, Floats, Floats]:
    """A matrix as NVFP4 has it, its codes, and the scales of its elements."""
    codes = rng.integers(0, 16, (rows, cols), np.uint8)
    scales = (rng.random((rows, cols // 16)) * 400).astype(ml_dtypes.float8_e4m3fn)
    scalar = np.float32(3.1e-4)
    parts = {
        "codes": part(codes[:, ::2] | codes[:, 1::2] << 4, "U8"),
        "scales": part(scales, "F8_E4M3"),
        "scalar": part(np.array(scalar), "F32"),
    }
    quant = {
        "shape": [rows, cols],
        "codes": field_of("codes", packing={"bits": 4, "word": 8, "along": "columns"}),
        "values": {
            "levels": {"float": "e2m1"},
            "scales": [
                {"times": numbers_of("scales", "e4m3", [1, 16])},
                {"times": numbers_of("scalar", "f32", [rows, cols])},
            ],
            "rule": {"inverse": "division"},
        },
    }
    return Described.of(parts, quant), codes, scales.astype(np.float32).repeat(16, axis=1) * scalar


def test_small_floats() -> None:
    for kind, dtype in SMALL_DTYPES.items():
        bits, _, _, greatest = SMALL_FLOATS[kind]
        levels = Levels(kind, bits)
        codes = np.arange(1 << bits, dtype=np.uint8)
        np.testing.assert_array_equal(levels.of_codes(codes), codes.view(dtype).astype(np.float32))
        # Every magnitude, halves between two, and what is beside these.
        known = levels.of_codes(np.arange(greatest + 1))
        halves = (known[:-1] + known[1:]) / 2
        x = np.concatenate([known, halves, next_to(halves, 0), next_to(halves, np.inf)])
        np.testing.assert_array_equal(levels.magnitudes(x), x.astype(dtype).view(np.uint8))
        # Codes go on without end: half way to the next of these belongs to the even one.
        step = known[-1] - known[-2]
        beyond = levels.magnitudes(np.array([known[-1] + step / 2, known[-1] + step, np.inf], np.float32))
        assert beyond.tolist() == [greatest + greatest % 2, greatest + 1, np.inf]


def test_numbers_are_the_nearest_binary32() -> None:
    # Just above half way between two: rounded to binary64 first, it would be half way, and then go to the even one.
    assert binary32(Decimal("1.00000005960464477539062500000001")) == np.float32(1 + 2**-23)
    assert binary32(Decimal("1.000000059604644775390625")) == 1
    assert binary32(448) == 448
    for bad in Decimal("3.5e38"), Decimal("NaN"), -1e39:
        with pytest.raises(DamageError):
            binary32(bad)


def test_views() -> None:
    array = np.arange(6 * 24, dtype=np.uint16).reshape(6, 4, 6)
    whole = part(array, "U16")
    np.testing.assert_array_equal(whole.viewed({}), array.reshape(24, 6))
    view: Json = {"pitch": 12, "slab": [2, 8], "transposed": True, "order": [3, 2], "rows": [3, 9]}
    old = array.reshape(12, 12)[2:8].T
    np.testing.assert_array_equal(whole.viewed(view), old[[1, 3, 5, 6, 8, 10]])
    old = array.reshape(24, 6)
    new = np.empty_like(old)
    for block in range(2):
        for outer in range(3):
            for inner in range(4):
                new[12 * block + 3 * inner + outer] = old[12 * block + 4 * outer + inner]
    np.testing.assert_array_equal(whole.viewed({"order": [3, 4]}), new)
    assert part(np.array(7, np.uint8), "U8").viewed({}).tolist() == [[7]]
    for bad in {"pitch": 7}, {"slab": [3, 25]}, {"rows": [3, 2]}, {"order": [5, 5]}, {"turned": True}, {"pitch": 0}:
        with pytest.raises(DamageError):
            whole.viewed(bad)


def test_views_put_back_what_they_take() -> None:
    rng = np.random.default_rng(42)
    array = rng.integers(0, 1 << 16, (2, 12, 10), np.uint16)
    for view in {}, {"transposed": True}, {"order": [2, 6]}, {"transposed": True, "order": [5, 2]}:
        filled = np.zeros(array.size, np.uint16)
        lines = 10 if "transposed" in view else 12
        for begin in 0, 12:
            for rows in [0, 4], [4, lines]:
                found = View.of(view | {"slab": [begin, begin + 12], "rows": rows}, "U16", [2, 12, 10])
                taken = found.of_bytes(array.tobytes())
                assert list(taken.shape) == found.shape and not found.is_all
                found.put(filled, taken.tobytes())
        np.testing.assert_array_equal(filled, array.reshape(-1))
    assert View.of({"pitch": 5, "slab": [0, 48]}, "U16", [2, 12, 10]).is_all


def made_up(key: str, shape: list[int], encoding: Json, dtype: str = "BF16") -> Array:
    plan = {"key": key, "dtype": dtype, "shape": shape, "encoding": encoding}
    return Array(plan, b"", np.zeros(0), Path(), 0, frozenset())


def with_parts(views: list[Json], shapes: list[list[int]], key: str = "tensor:t") -> list[Array]:
    parts = [made_up(f"part:{number}", shape, {"kind": "raw"}) for number, shape in enumerate(shapes)]
    entries = [{"array": f"part:{number}", "view": view} for number, view in enumerate(views)]
    return [*parts, made_up(key, [3, 4, 6], {"kind": "parts", "parts": entries})]


def test_parts() -> None:
    """Each element of a tensor is in one part, and parts come in order (4.2)."""
    turned: Json = {"slab": [4, 12], "transposed": True, "order": [3, 2]}
    views: list[Json] = [{"slab": [0, 4]}, turned | {"rows": [0, 2]}, turned | {"rows": [2, 6]}]
    shapes = [[4, 6], [2, 8], [4, 8]]
    check_parts(with_parts(views, shapes))
    check_parts(with_parts([{}], [[12, 6]]))
    check_parts(with_parts([{"pitch": 8}], [[9, 8]]))
    bad_lists: list[tuple[list[Json], list[list[int]]]] = [
        ([], []),
        (views[:2], shapes[:2]),
        (views[::2], shapes[::2]),
        ([views[1], views[2]], shapes[1:]),
        ([views[0], views[2], views[1]], [shapes[0], shapes[2], shapes[1]]),
        ([*views[:2], {"slab": [4, 12], "rows": [2, 8]}], [*shapes[:2], [6, 6]]),
        ([*views[:2], turned | {"rows": [3, 6]}], [*shapes[:2], [3, 8]]),
        ([*views[:2], turned | {"rows": [1, 6]}], [*shapes[:2], [5, 8]]),
        ([{"slab": [0, 4]}, {"slab": [3, 12]}], [[4, 6], [9, 6]]),
        ([{"slab": [0, 4]}, {"slab": [5, 12]}], [[4, 6], [7, 6]]),
        ([{"slab": [0, 6]}, {"pitch": 12, "slab": [3, 6]}], [[6, 6], [3, 12]]),
        ([{"slab": [0, 6]}, {"slab": [0, 12], "rows": [6, 12]}], [[6, 6], [6, 6]]),
        (views, [[4, 6], [2, 8], [8, 4]]),
    ]
    for bad_views, bad_shapes in bad_lists:
        with pytest.raises(DamageError):
            check_parts(with_parts(bad_views, bad_shapes))
    whole = with_parts(views, shapes)
    another = made_up("tensor:u", [1], {"kind": "raw"})
    for bad in (
        whole[:-1],
        [whole[-1]],
        [*whole[:3], another, whole[3]],
        [whole[1], whole[0], *whole[2:]],
        [*whole[:2], made_up("part:2", [4, 8], {"kind": "raw"}, "F16"), whole[3]],
        [*whole[:2], made_up("part:2", [4, 8], {"kind": "slice"}), whole[3]],
        with_parts(views, shapes, "file:f"),
    ):
        with pytest.raises(DamageError):
            check_parts(bad)


@pytest.mark.parametrize("word", [8, 16, 32, 64])
@pytest.mark.parametrize("bits", range(1, 9))
def test_packings(bits: int, word: int) -> None:
    rng = np.random.default_rng(bits * word)
    cols, most = 2 * bits, (1 << bits) - 1
    as_words = np.frombuffer(rng.bytes(5 * cols * word // 8), f"<u{word // 8}").reshape(5, cols)
    words = as_words.tolist()
    packing: Json = {"bits": bits, "word": word, "along": "columns"}

    def check_both(packing: Json, codes: Floats) -> None:
        for along, turn in ("columns", False), ("rows", True):
            found = Packing.of(packing | {"along": along})
            seen, expected = (as_words.T, codes.T) if turn else (as_words, codes)
            np.testing.assert_array_equal(found.unpack(seen), expected)
            np.testing.assert_array_equal(found.pack(expected), seen)
            assert found.shape(list(seen.shape)) == list(expected.shape)

    rows = [sum(each << (word * at) for at, each in enumerate(row)) for row in words]
    codes = np.array([[row >> (bits * at) & most for at in range(cols * word // bits)] for row in rows])
    check_both(packing, codes)
    if word % bits == 0:
        order = rng.permutation(word // bits).tolist()
        codes = np.array([[each >> (bits * place) & most for each in row for place in order] for row in words])
        check_both(packing | {"order": order}, codes)


def test_what_is_left_of_words_means_nothing() -> None:
    words = np.array([[0xFFFF_FFFF]], np.uint32)
    assert Packing.of({"bits": 3, "word": 32, "along": "columns"}).unpack(words).tolist() == [[7] * 10]
    for bad in {"bits": 3, "order": list(range(10))}, {"bits": 8, "order": [0, 1, 2, 2]}, {"bits": 9}, {"word": 24}:
        with pytest.raises(DamageError):
            Packing.of({"bits": 4, "word": 32, "along": "rows"} | bad)


@np.errstate(all="ignore")
def test_nvfp4() -> None:
    rng = np.random.default_rng(31)
    matrix, codes, scales = nvfp4(rng, 8, 64)
    np.testing.assert_array_equal(matrix.codes, codes)
    of_codes = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(matrix.weights(), of_codes * scales)
    assert matrix.values.groups.tolist() == np.arange(4).repeat(16).tolist()
    # By its rule each bin has the magnitudes that become its code, as another library rounds.
    bins = rule_bins("BF16", matrix.values)
    magnitudes = np.arange(0x7F80, dtype=np.uint16)
    weights = magnitudes.view(ml_dtypes.bfloat16).astype(np.float32)
    for row in range(8):
        for group in range(4):
            rounded = (weights / scales[row, 16 * group]).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
            for k in range(1, 7):
                first = int(np.flatnonzero(rounded >= k)[0])
                count = int(np.flatnonzero(rounded >= k + 1)[0]) - first
                assert bins.lo[row, group, k] == first
                assert bins.frequency[row, group, k] == min(65535, 65536 // max(1, count))
    assert (bins.lo[..., 8:] == 0).all() and (bins.frequency[..., 8:] == 65535).all()


def test_awq() -> None:
    rng = np.random.default_rng(32)
    rows, cols, size = 24, 64, 32
    codes, zeros = rng.integers(0, 16, (rows, cols)), rng.integers(0, 16, (rows, cols // size))
    scales = drawn(np.float16, rng, cols // size, rows)

    def packed(numbers: Floats) -> Floats:
        """Rows of numbers, eight in a word."""
        words = np.zeros((numbers.shape[0], numbers.shape[1] // 8), np.uint32)
        for place, number in enumerate(AWQ):
            words |= (numbers[:, number::8] << (4 * place)).astype(np.uint32)
        return words

    order = [AWQ.index(number) for number in range(8)]
    packing = {"bits": 4, "word": 32, "along": "rows", "order": order}
    parts = {
        "qweight": part(packed(codes.T), "I32"),
        "qzeros": part(packed(zeros.T), "I32"),
        "scales": part(scales, "F16"),
    }
    view: Json = {"transposed": True}
    stored = field_of("qzeros", view=view, packing=packing)
    quant = {
        "shape": [rows, cols],
        "codes": field_of("qweight", view=view, packing=packing),
        "values": {
            "levels": "unsigned",
            "scales": [{"times": numbers_of("scales", "f16", [1, size], view=view)}],
            "zero": {"codes": {"field": stored, "levels": "unsigned", "tile": [1, size]}},
        },
    }
    matrix = Described.of(parts, quant)
    np.testing.assert_array_equal(matrix.codes, codes)
    expected = (codes - zeros.repeat(size, axis=1)) * scales.astype(np.float32).T.repeat(size, axis=1)
    np.testing.assert_array_equal(matrix.weights(), expected.astype(np.float32))
    assert matrix.values.zeros.shape == (rows, 2) and not matrix.values.are_centred
    found = Packing.of(packing)
    np.testing.assert_array_equal(found.pack(codes).astype(np.uint32), packed(codes.T).T)


@pytest.mark.parametrize(
    ("levels", "bits", "add", "expected"),
    [
        ("unsigned", 4, 1, lambda stored: (stored + 1) % 16),
        ("signed", 4, 0, lambda stored: np.where(stored < 8, stored, stored - 16)),
        ("offset", 4, 3, lambda stored: (stored + 3) % 16 - 8),
        ("signed", 8, 200, lambda stored: (stored + 200 + 128) % 256 - 128),
    ],
)
def test_zero_points(levels: str, bits: int, add: int, expected: Callable[[Floats], Floats]) -> None:
    stored = np.random.default_rng(33).integers(0, 1 << bits, (3, 8))
    packing = {"bits": bits, "word": 8, "along": "columns"}
    words = stored if bits == 8 else stored[:, ::2] | stored[:, 1::2] << 4
    parts = {"codes": part(np.zeros((6, 40), np.int8), "I8"), "zeros": part(words.astype(np.uint8), "U8")}
    zero = {"field": field_of("zeros", packing=packing), "levels": levels, "add": add, "tile": [2, 5]}
    values = {"levels": "signed", "zero": {"codes": zero}}
    found = Described.of(parts, {"shape": [6, 40], "codes": field_of("codes"), "values": values}).values
    np.testing.assert_array_equal(found.of_elements()[1], expected(stored).repeat(2, axis=0).repeat(5, axis=1))


def test_bias() -> None:
    """As MLX has it: `scale * code + bias`."""
    rng = np.random.default_rng(34)
    codes = rng.integers(0, 16, (4, 128), np.uint8)
    scales, bias = np.abs(drawn(np.float16, rng, 4, 2)), drawn(ml_dtypes.bfloat16, rng, 4, 2)
    parts = {
        "codes": part(
            np.packbits(
                np.unpackbits(codes.reshape(-1, 1), axis=1)[:, 4:][:, ::-1].reshape(4, -1), axis=1, bitorder="little"
            ).view(np.uint32),
            "U32",
        ),
        "scales": part(scales, "F16"),
        "bias": part(bias, "BF16"),
    }
    zero = numbers_of("bias", "bf16", [1, 64])["numbers"]
    quant = {
        "shape": [4, 128],
        "codes": field_of("codes", packing={"bits": 4, "word": 32, "along": "columns"}),
        "values": {
            "levels": "unsigned",
            "scales": [{"times": numbers_of("scales", "f16", [1, 64])}],
            "zero": {"bias": zero},
        },
    }
    matrix = Described.of(parts, quant)
    np.testing.assert_array_equal(matrix.codes, codes)
    zeros = -bias.astype(np.float32) / scales.astype(np.float32)
    assert zeros.dtype == np.float32
    np.testing.assert_array_equal(matrix.values.zeros, zeros)
    assert not matrix.values.are_centred
    of_elements = zeros.repeat(64, axis=1)
    for subdivisions in -2, 0, 2:
        unit = np.float32(2.0**subdivisions)
        multiple = np.rint(codes.astype(np.float32) * unit + -(of_elements * unit))
        found = expected_multiples(matrix.codes, matrix.values, subdivisions)
        np.testing.assert_array_equal(found, np.clip(multiple, -127, 127))
    # A bin ends at 175 where zero-points are off the middle, and each begins where its multiple does.
    bins = step_bins("F16", matrix.values, 1)
    weights = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    for row in range(4):
        for group in range(2):
            multiples = np.rint(weights * (np.float32(2) / scales[row, group].astype(np.float32)))
            firsts = [int(np.flatnonzero(multiples >= k)[0]) for k in (*range(1, 128), 176)]
            assert bins.lo[row, group, 1:].tolist() == firsts[:127]
            sizes = [max(1, end - begin) for begin, end in pairwise(firsts)]
            assert bins.frequency[row, group, 1:].tolist() == [min(65535, 65536 // size) for size in sizes]


def test_groups_of_several_tiles() -> None:
    """A group ends where any tile does; scales multiply and divide in order, and the last constant is apart."""
    rng = np.random.default_rng(35)
    first, second = drawn(np.float32, rng, 3, 8), drawn(ml_dtypes.bfloat16, rng, 2, 3)
    exponents = rng.integers(100, 150, (6, 1), np.uint8)
    parts = {
        "codes": part(np.zeros((6, 100), np.int8), "I8"),
        "first": part(first, "F32"),
        "second": part(second, "BF16"),
        "third": part(exponents, "U8"),
    }
    scales = [
        {"times": numbers_of("first", "f32", [2, 16])},
        {"over": numbers_of("second", "bf16", [4, 40])},
        {"times": numbers_of("third", "e8m0", [1, 1000])},
        {"over": {"constant": 6.0}},
    ]
    values: Json = {"levels": "signed", "scales": scales}
    quant = {"shape": [6, 100], "codes": field_of("codes"), "values": values}
    found = Described.of(parts, quant).values
    assert np.flatnonzero(np.diff(found.groups)).tolist() == [15, 31, 39, 47, 63, 79, 95]
    row, col = np.indices((6, 100))
    a = first[row // 2, col // 16] / second.astype(np.float32)[row // 4, col // 40]
    a = a * np.exp2(exponents.astype(np.float32) - 127)[row, 0]
    np.testing.assert_array_equal(found.a[:, found.groups], a)
    assert found.b == 6
    np.testing.assert_array_equal(found.of_elements()[0], a / np.float32(6))
    # One that has to serve as the scale itself is no such constant.
    values["scales"] = [{"over": {"constant": 3.0}}]
    alone = Described.of(parts, quant).values
    assert alone.b == 1 and (alone.a == np.float32(1) / np.float32(3)).all()
    for bad in (
        [{"times": {"constant": 0.0}}],
        [{"times": {"constant": 1.0}}] * 5,
        [{"times": numbers_of("first", "f32", [1, 16])}],
        [{"times": numbers_of("first", "bf16", [2, 16])}],
        [{"times": numbers_of("first", "f32", [2, 0])}],
    ):
        values["scales"] = bad
        with pytest.raises(DamageError):
            Described.of(parts, quant)


def test_groups_from_a_list() -> None:
    """Numbers are then looked up by group, of which some have no column."""
    rng = np.random.default_rng(38)
    listed = np.array([4, 0, 0, 4, 2, 4, 0, 2, 4, 4], np.int32)
    scales = drawn(np.float32, rng, 3, 6)
    parts = {
        "codes": part(np.zeros((6, 10), np.int8), "I8"),
        "groups": part(listed, "I32"),
        "scales": part(scales, "F32"),
    }
    groups: Json = {"field": field_of("groups", view={"pitch": 1}), "count": 6}
    values = {
        "levels": "signed",
        "scales": [{"times": numbers_of("scales", "f32", [2, 5])}],
        "column_groups": groups,
    }
    quant = {"shape": [6, 10], "codes": field_of("codes"), "values": values}
    found = Described.of(parts, quant).values
    np.testing.assert_array_equal(found.of_elements()[0], scales[np.arange(6) // 2][:, listed])
    # Those that are not there are of the last column's group, and of the last row.
    grown = found.fitted(7, 12).of_elements()[0]
    np.testing.assert_array_equal(grown[6, 10:], scales[2, [4, 4]])
    for bad in {"count": 4}, {"count": 21}, {"field": field_of("groups")}, {"field": field_of("scales")}:
        values["column_groups"] = groups | bad
        with pytest.raises(DamageError):
            Described.of(parts, quant)


def test_tables() -> None:
    """What is expected of codes of a table, by the text's words; entries are in no order, and some are equal."""
    entries = [0.5, -1, 0, 0.25, 1, 0.5, -0.5, 2, -2, 0.5, 3, -3, 0, 7, 5, 6]
    table = np.array(entries, np.float32)
    levels = Levels.of({"table": [Decimal(str(entry)) for entry in entries]}, Packing(4, 8, False, None))
    ranks = [sum((table[other], other) < (table[code], code) for other in range(16)) for code in range(16)]
    assert levels.ranks().tolist() == ranks
    assert levels.of_ranks(np.array(ranks) + 512).tolist() == list(range(16))
    with pytest.raises(DamageError):
        levels.of_ranks(np.array([16]))
    rng = np.random.default_rng(36)
    halves = (np.sort(table)[1:] + np.sort(table)[:-1]) / 2
    special = np.array([np.inf, -np.inf, np.nan, 9, -9, -0.0], np.float32)
    drawn_ones = rng.normal(0, 3, 500).astype(np.float32)
    x = np.concatenate([special, table, halves, next_to(halves, np.inf), next_to(halves, -np.inf), drawn_ones])
    by_rank = sorted(entries)
    for each, found in zip(x, levels.nearest(x), strict=True):
        if np.isnan(each):
            assert found == 0
            continue
        below = [rank for rank, entry in enumerate(by_rank) if entry < each]
        others = [rank for rank, entry in enumerate(by_rank) if not entry < each]
        candidates = below[-1:] + others[:1]
        assert found == min(candidates, key=lambda rank: (abs(float(each) - by_rank[rank]), rank))
    # Each code, expected of itself, has a rank of the same value.
    np.testing.assert_array_equal(table[levels.of_ranks(levels.nearest(table))], table)


def test_codes_expected_of_other_levels() -> None:
    """8-bit codes with a scale for each row, given those of NVFP4, and the other way round."""
    rng = np.random.default_rng(37)
    below, _, scales = nvfp4(rng, 8, 64)
    weights, row_scales = below.weights(), np.abs(drawn(np.float32, rng, 8))
    parts = {"codes": part(np.zeros((8, 64), np.int8), "I8"), "scales": part(row_scales, "F32")}
    of_rows = [{"times": numbers_of("scales", "f32", [1, 64], view={"pitch": 1})}, {"over": {"constant": 127.0}}]
    quant = {
        "shape": [8, 64],
        "codes": field_of("codes"),
        "values": {"levels": "signed", "scales": of_rows, "zero": {"constant": -3}},
    }
    own = Described.of(parts, quant).values
    own_scales = (row_scales / np.float32(127))[:, None]
    level = below.codes.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    expected = np.clip(np.rint(level * (scales / own_scales) + np.float32(-3)), -127, 127)
    np.testing.assert_array_equal(expected_ranks(below.codes, below.values, own), expected)
    assert np.abs(weights / own_scales - 3 - expected)[np.abs(expected) < 127].max() < 0.51

    codes = rng.integers(-128, 128, (8, 64)).astype(np.int8)
    ratio = own_scales / scales
    x = codes.astype(np.float32) * ratio + (np.float32(0) - np.float32(-3) * ratio)
    small = np.clip(x, -6, 6).astype(ml_dtypes.float4_e2m1fn)
    ranks = expected_ranks(codes.view(np.uint8), own, below.values)
    found = below.values.levels.of_ranks(ranks).astype(np.uint8).view(ml_dtypes.float4_e2m1fn)
    np.testing.assert_array_equal(found.astype(np.float32), small.astype(np.float32))


def test_what_is_not_there_is_the_fill() -> None:
    """A matrix with more rows and columns than it is given, and one with fewer of both."""
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    parts = {
        "codes": part(np.full((6, 12), 200, np.uint8), "U8"),
        "zeros": part(stored, "U8"),
        "scales": part(np.arange(1, 7, dtype=np.float32).reshape(2, 3), "F32"),
    }
    zero = {"field": field_of("zeros"), "levels": "unsigned", "tile": [3, 4]}
    values = {
        "levels": "unsigned",
        "scales": [{"times": numbers_of("scales", "f32", [3, 4])}],
        "zero": {"codes": zero},
    }
    matrix = Described.of(parts, {"shape": [6, 12], "codes": field_of("codes"), "values": values})
    grown = matrix.values.fitted(8, 17)
    codes = grown.fitted_codes(matrix.codes)
    assert (codes[:6, :12] == 200).all() and (codes[6:] == 5).all() and (codes[:, 12:] == 5).all()
    row, col = np.minimum(np.arange(8), 5) // 3, np.minimum(np.arange(17), 11) // 4
    np.testing.assert_array_equal(grown.of_elements()[0], 1 + stored[row][:, col])
    np.testing.assert_array_equal(grown.of_elements()[1], stored[row][:, col])
    cut = matrix.values.fitted(3, 5)
    np.testing.assert_array_equal(cut.of_elements()[1], stored[:1, [0, 0, 0, 0, 1]].repeat(3, axis=0))
    assert (cut.fitted_codes(matrix.codes) == np.full((3, 5), 200)).all()


def test_restores_matrices_whose_chunks_lie_side_by_side(binary: Path, tmp_path: Path) -> None:
    """Packed codes of many: alone, of 3 bits too, and given each other, and weights that are given them."""
    rng = np.random.default_rng(28)
    weights = drawn(ml_dtypes.bfloat16, rng, 1408, 3072)
    variants: dict[str, dict[str, Floats]] = {"high": {"a.up_proj.weight": weights}}
    for bits in (8, 4, 3):
        tensors = gptq(weights, Gptq(bits, 128, bits == 4, True, np.float16, 1), rng)
        variants[f"gptq{bits}"] = {f"a.up_proj.{part}": tensor for part, tensor in tensors.items()}
    folders = save_all(tmp_path / "folders", variants)
    for number, names in enumerate((["gptq3"], ["high", "gptq8", "gptq4"])):
        some = {name: folders[name] for name in names}
        store = pack(binary, some, tmp_path / f"store-{number}")
        assert_restores(store, some, tmp_path / f"restored-{number}")
        layers = [store.contents(name).arrays.values() for name in names]
        cut = [array for arrays in layers for array in arrays if array.is_matrix and len(array.blocks) > 8]
        across = [array for array in cut if array.chunk_shape[1] < array.coded_shape[1]]
        assert [array.kind for array in across] == [["codes"], ["code-residual", "codes"]][number]
