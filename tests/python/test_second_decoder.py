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
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from safetensors import safe_open
from safetensors.numpy import save_file

from chunk_decoder import DamageError
from second_decoder import Store

Floats = npt.NDArray[Any]

GOLDEN = Path(__file__).resolve().parents[2] / "crates/qstore/tests/golden"
GOLDEN_CASES = sorted(listing.parent for listing in GOLDEN.glob("*/*/expected.sha256"))
DTYPES = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp32": np.float32}
KINDS = {"reference", "slice", "residual", "float-split", "codes", "zstd", "raw"}

#: The factor that a row of one scale is multiplied by, under each name of section 9.
RULES: dict[str, Callable[[Floats], Floats]] = {
    "reciprocal-times127": lambda scale: np.float32(1) / scale * np.float32(127),
    "reciprocal-up-times127": lambda scale: next_to(np.float32(1) / scale, np.inf) * np.float32(127),
    "reciprocal-down-times127": lambda scale: next_to(np.float32(1) / scale, -np.inf) * np.float32(127),
    "quotient127": lambda scale: np.float32(127) / scale,
}


#: A chain's variants with bits of their codes, columns of a group, whether groups are in any order, whether zero-points
#: lie off the middle, the dtype of scales, and what stored zero-points lack.
CHAIN: dict[str, tuple[int, int, bool, bool, npt.DTypeLike, int]] = {
    "gptq8": (8, 128, False, False, np.float32, 0),
    "gptq4": (4, 64, True, True, np.float16, 1),
    "gptq3": (3, 96, False, False, ml_dtypes.bfloat16, 1),
    "gptq2": (2, 32, True, False, np.float16, 1),
}


def next_to(value: Floats, toward: float) -> Floats:
    return np.nextafter(value, np.float32(toward))


@np.errstate(all="ignore")
def quantize(weights: Floats, rule: str = "reciprocal-times127") -> tuple[Floats, Floats]:
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

    def add(name: str, weights: Floats, rule: str = "reciprocal-times127") -> None:
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
def gptq(weights: Floats, variant: str, rng: np.random.Generator) -> dict[str, Floats]:
    """The tensors of a matrix, most of its codes rounded to nearest, and some moved as error feedback does."""
    bits, size, any_order, asymmetric, dtype, lacks = CHAIN[variant]
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
    scales = (largest / np.minimum(zeros, most - zeros)).astype(dtype)
    codes = values / scales.astype(np.float32)[groups].T + zeros[groups].T
    codes = np.nan_to_num(codes + rng.choice([0, 0, 0, 0, 1, -1], codes.shape))
    packed = bits_in_words(np.clip(np.rint(codes), 0, most), bits)
    tensors = {
        "qweight": np.ascontiguousarray(packed.T),
        "qzeros": bits_in_words(zeros - lacks & most, bits),
        "scales": scales,
    }
    return tensors if variant == "gptq3" else tensors | {"g_idx": groups.astype(np.int32)}


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
        for variant in CHAIN:
            tensors = gptq(weights, variant, rng).items()
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
    folders = {}
    for name, tensors in (("high", high), *variants.items()):
        folders[name] = root / name
        folders[name].mkdir(parents=True)
        save_file(tensors, folders[name] / "model.safetensors", {"format": "pt"})
    return folders


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
    return [array.plan for name in store.variants for array in store.layer(name).arrays.values()]


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
    assert max(array.records.size for array in store.layer("high").arrays.values()) > 2


def test_meets_every_rounding(binary: Path, bf16_pair: dict[str, Path], tmp_path: Path) -> None:
    """Each matrix of `RULES` was quantised with a factor of its own; BF16 tells them apart."""
    encodings = [plan["encoding"] for plan in plans(pack(binary, bf16_pair, tmp_path / "store"))]
    assert {encoding["rounding"] for encoding in encodings if encoding["kind"] == "residual"} == set(RULES)


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
    assert kinds(store) >= {"packed", "code-residual", "step-residual", "residual"}
    found = plans(store)
    steps = [plan for plan in found if plan["encoding"]["kind"] == "step-residual"]
    assert {plan["encoding"].get("transposed", False) for plan in steps} == {False, True}
    assert any(plan.get("mantissa") == 7 for plan in steps) == short
    own = [plan["encoding"]["own"] for plan in found if plan["encoding"]["kind"] == "code-residual"]
    assert {grid["scheme"] for grid in own} == {"llm.int8", "gptq"}


@pytest.mark.parametrize("below", CHAIN)
def test_restores_floats_given_each(binary: Path, tmp_path: Path, below: str) -> None:
    """Of one lower variant alone codes are packed, and floats given its steps."""
    folders = write_chain(tmp_path / "folders", ml_dtypes.bfloat16, ml_dtypes.bfloat16)
    folders = {name: folders[name] for name in ("high", below)}
    store = pack(binary, folders, tmp_path / "store")
    assert_restores(store, folders, tmp_path / "restored")
    found = [plan["encoding"] for plan in plans(store)]
    bits = {encoding["bits"] for encoding in found if encoding["kind"] == "packed"}
    assert bits == {CHAIN[below][0]}
    assert "step-residual" in kinds(store)


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
    assert all(len(variant["layer"]) > 2 for variant in store.variants.values())


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
        bundles = [key for key in store.layer("small").arrays if key.startswith("bundle:")]
        assert len(bundles) > 3
        assert_restores(store, {"small": folder}, tmp_path / f"restored-{number}")


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


def test_layer_files_are_safetensors(binary: Path, bf16_pair: dict[str, Path], tmp_path: Path) -> None:
    store = pack(binary, bf16_pair, tmp_path / "store")
    for name, variant in store.variants.items():
        for entry in variant["layer"]:
            path = store.folder / entry["name"]
            with path.open("rb") as file:
                header = file.read(int.from_bytes(file.read(8), "little"))
            assert entry["id"] == xxhash.xxh3_128_hexdigest(header)
            assert entry["name"] == f"{name}-{entry['id'][:12]}.safetensors"
            with safe_open(path, framework="np") as layer:
                streams = {key: layer.get_tensor(key) for key in layer.keys()}  # noqa: SIM118
                metadata = layer.metadata()
            assert all(stream.dtype == np.uint8 and stream.ndim == 1 for stream in streams.values())
            assert metadata == {
                "format": "qstore",
                "format_version": "1",
                "plan_xxh3": xxhash.xxh3_128_hexdigest(streams.pop("qstore.plan").tobytes()),
                "chunks_xxh3": xxhash.xxh3_128_hexdigest(streams.pop("qstore.chunks").tobytes()),
            }
            stored = {
                key
                for key, array in store.layer(name).arrays.items()
                if array.plan["encoding"]["kind"] not in ("reference", "verbatim", "slice")
            }
            assert set(streams) == stored


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("part", ["header", "first stream", "qstore.chunks", "qstore.plan"])
def test_notices_a_flipped_bit(binary: Path, bf16_pair: dict[str, Path], tmp_path: Path, part: str) -> None:
    store = pack(binary, {"int8": bf16_pair["int8"]}, tmp_path / "store")
    path = store.folder / store.variants["int8"]["layer"][0]["name"]
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    ends = {key: start + stream["data_offsets"][1] for key, stream in header.items() if key != "__metadata__"}
    ends |= {"header": start, "first stream": start + 1}
    flip(path, ends[part] - 1)
    with pytest.raises(DamageError):
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
