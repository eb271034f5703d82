"""Every element type of safetensors in every kind of shape, by every way of loading, in every framework.

What is loaded is compared with the bytes of the file, and with what safetensors itself loads of it where it can.
"""

from __future__ import annotations

import gc
import importlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

import qstore
from arrays import FRAMEWORKS, fill, held, is_contiguous, raw, same, type_name
from checkpoints import Raw, write_safetensors
from qstore import UsageError


@dataclass(frozen=True)
class Type:
    bits: int
    #: What numpy (or ml_dtypes) and torch call it, if they know it.
    np: str | None
    pt: str | None


#: The types that lie at whole multiples of eight bytes first, so that none lies askew in the file.
TYPES = {
    "U64": Type(64, "uint64", "uint64"),
    "I64": Type(64, "int64", "int64"),
    "F64": Type(64, "float64", "float64"),
    "C64": Type(64, "complex64", "complex64"),
    "U32": Type(32, "uint32", "uint32"),
    "I32": Type(32, "int32", "int32"),
    "F32": Type(32, "float32", "float32"),
    "U16": Type(16, "uint16", "uint16"),
    "I16": Type(16, "int16", "int16"),
    "F16": Type(16, "float16", "float16"),
    "BF16": Type(16, "bfloat16", "bfloat16"),
    "BOOL": Type(8, "bool", "bool"),
    "U8": Type(8, "uint8", "uint8"),
    "I8": Type(8, "int8", "int8"),
    "F8_E4M3": Type(8, "float8_e4m3fn", "float8_e4m3fn"),
    "F8_E4M3FNUZ": Type(8, "float8_e4m3fnuz", "float8_e4m3fnuz"),
    "F8_E5M2": Type(8, "float8_e5m2", "float8_e5m2"),
    "F8_E5M2FNUZ": Type(8, "float8_e5m2fnuz", "float8_e5m2fnuz"),
    "F8_E8M0": Type(8, "float8_e8m0fnu", "float8_e8m0fnu"),
    "F6_E2M3": Type(6, None, None),
    "F6_E3M2": Type(6, None, None),
    "F4": Type(4, None, "float4_e2m1fn_x2"),
}
#: What safetensors 0.8 makes arrays of by itself; of numpy's only those that need no ml_dtypes.
SAFETENSORS = {"np": {name for name, type_ in TYPES.items() if type_.np and hasattr(np, type_.np)}}
SAFETENSORS["pt"] = {name for name, type_ in TYPES.items() if type_.pt}

SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (7,), (3, 0, 2), (5, 3), (2, 3, 4)]


def shapes(type_: Type) -> list[tuple[int, ...]]:
    """The shapes of whole bytes, and one of more than 2 MiB."""
    large = (2100, 8192 // type_.bits)
    return [shape for shape in [*SHAPES, large] if math.prod(shape) * type_.bits % 8 == 0]


def name_of(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}.{'x'.join(map(str, shape)) or 'scalar'}"


def draw(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Raw:
    """Bytes that can be compressed; those of large tensors of some types cannot."""
    size = math.prod(shape) * TYPES[dtype].bits // 8
    bytes_ = rng.integers(0, 2 if dtype == "BOOL" else 256, size, np.uint8)
    if dtype not in ("U8", "F32", "I64"):
        bytes_ = np.minimum(bytes_, rng.integers(0, 256, size, np.uint8))
    return Raw(dtype, shape, bytes_.tobytes())


@dataclass(frozen=True)
class Grid:
    store: Path
    #: The file that holds every tensor.
    file: Path
    tensors: dict[str, Raw]

    def known(self, framework: str) -> dict[str, Raw]:
        """Those that a framework has a type for: the variant of its name."""
        return {name: t for name, t in self.tensors.items() if getattr(TYPES[t.dtype], framework)}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    root = tmp_path_factory.mktemp("grid")
    rng = np.random.default_rng(3)
    tensors = {name_of(dtype, shape): draw(rng, dtype, shape) for dtype in TYPES for shape in shapes(TYPES[dtype])}
    made = Grid(root / "store", root / "all" / "model.safetensors", tensors)
    for variant, held_there in {"all": tensors, "np": made.known("np"), "pt": made.known("pt")}.items():
        (root / variant).mkdir()
        write_safetensors(root / variant / "model.safetensors", held_there)
    qstore.pack({variant: root / variant for variant in ("all", "np", "pt")}, made.store)
    return made


def assert_is(array: Any, tensor: Raw, framework: str) -> None:
    """That it is that tensor in memory of its own."""
    shape = tensor.shape
    if tensor.dtype == "F4":
        shape = (*shape[:-1], shape[-1] // 2)
    assert isinstance(array, np.ndarray) == (framework == "np")
    assert type_name(array) == getattr(TYPES[tensor.dtype], framework)
    assert tuple(array.shape) == shape
    assert raw(array) == tensor.data
    assert is_contiguous(array)
    assert held(array) == len(tensor.data)
    if isinstance(array, np.ndarray):
        assert array.flags.writeable
        assert array.flags.aligned


@pytest.mark.parametrize("dtype", TYPES)
def test_each_way_of_loading_one_tensor(grid: Grid, framework: str, dtype: str) -> None:
    known = getattr(TYPES[dtype], framework) is not None
    with qstore.safe_open(grid.store, framework, variant="all") as opened:
        for shape in shapes(TYPES[dtype]):
            name = name_of(dtype, shape)
            slice_ = opened.get_slice(name)
            assert (slice_.get_dtype(), slice_.get_shape()) == (dtype, list(shape))
            if known:
                for array in (opened.get_tensor(name), slice_[...], slice_[()]):
                    assert_is(array, grid.tensors[name], framework)
                if shape:
                    assert_is(slice_[:], grid.tensors[name], framework)
                continue
            for load in (lambda name=name: opened.get_tensor(name), lambda slice_=slice_: slice_[...]):
                with pytest.raises(UsageError, match=dtype):
                    load()
            if shape:
                with pytest.raises(UsageError, match=dtype):
                    slice_[:1]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_loading_all(grid: Grid, framework: str, threads: int) -> None:
    known = grid.known(framework)
    with qstore.open(grid.store, framework=framework, threads=threads) as store:
        loaded = store[framework].get_tensors()
    assert list(loaded) == list(known)
    for name, array in loaded.items():
        assert_is(array, known[name], framework)


def test_load_file(grid: Grid, framework: str) -> None:
    module = importlib.import_module(f"qstore.{'numpy' if framework == 'np' else 'torch'}")
    loaded = module.load_file(grid.store, variant=framework)
    known = grid.known(framework)
    assert loaded.keys() == known.keys()
    for name, array in loaded.items():
        assert_is(array, known[name], framework)


def test_loading_all_refuses_types_that_a_framework_lacks(grid: Grid, framework: str) -> None:
    with qstore.open(grid.store, framework=framework) as store, pytest.raises(UsageError, match=r"F6|F4"):
        store["all"].get_tensors()


def test_as_safetensors_loads(grid: Grid, framework: str) -> None:
    with (
        qstore.safe_open(grid.store, framework, variant="all") as ours,
        safetensors.safe_open(grid.file, framework) as theirs,
    ):
        compared = set()
        for name, tensor in grid.tensors.items():
            if tensor.dtype in SAFETENSORS[framework]:
                assert same(ours.get_tensor(name), theirs.get_tensor(name)), name
                compared.add(tensor.dtype)
    assert compared == SAFETENSORS[framework]
    assert len(compared) >= 13


@pytest.mark.parametrize("dtype", ["F32", "BF16", "I8", "BOOL", "F8_E8M0"])
def test_memory_is_its_own(grid: Grid, framework: str, dtype: str) -> None:
    with qstore.open(grid.store, framework=framework) as store:
        opened = store["all"]
        for shape in shapes(TYPES[dtype]):
            name = name_of(dtype, shape)
            loads = (
                lambda name=name: opened.get_tensor(name),
                lambda name=name: opened.get_slice(name)[...],
                lambda name=name: store[framework].get_tensors()[name],
            )
            for load in loads:
                one, other = load(), load()
                fill(one)
                assert raw(other) == grid.tensors[name].data
                assert raw(load()) == grid.tensors[name].data
                fill(one)
                assert raw(one) == grid.tensors[name].data


def test_arrays_outlive_their_store(grid: Grid, framework: str) -> None:
    name = name_of("BF16", (2100, 512))
    with qstore.open(grid.store, framework=framework) as store:
        arrays = [store["all"].get_tensor(name), store["all"].get_slice(name)[:], store[framework].get_tensors()[name]]
    del store
    gc.collect()
    for array in arrays:
        fill(array)
        fill(array)
        assert raw(array) == grid.tensors[name].data


def test_pairs_that_torch_cannot_split(tmp_path: Path, framework: str) -> None:
    """Three halves of bytes in a row are no whole pairs; safetensors refuses them as well."""
    (tmp_path / "model").mkdir()
    write_safetensors(tmp_path / "model" / "a.safetensors", {"odd": Raw("F4", (2, 3), b"\x12\x34\x56")})
    qstore.pack({"f4": tmp_path / "model"}, tmp_path / "store")
    with qstore.safe_open(tmp_path / "store", framework) as opened:
        for load in (lambda: opened.get_tensor("odd"), lambda: opened.get_slice("odd")[0], opened.get_tensors):
            with pytest.raises(UsageError, match="F4"):
                load()


def test_numpy_is_on_the_processor(store: Path) -> None:
    with pytest.raises(UsageError, match="cuda:0"):
        qstore.open(store, device="cuda:0")


@pytest.mark.parametrize("name", ["numpy", "torch", "pytorch"])
def test_other_names_of_frameworks(store: Path, name: str) -> None:
    wanted = "np" if name == "numpy" else "pt"
    if wanted in FRAMEWORKS:
        array = qstore.safe_open(store, name, variant="int8").get_tensor("model.norm.weight")
        assert isinstance(array, np.ndarray) == (wanted == "np")


def test_without_torch(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("pt", "torch"):
        with pytest.raises(ModuleNotFoundError, match="pip install torch"):
            qstore.open(store, framework=name)
    with pytest.raises(ModuleNotFoundError, match="pip install torch"):
        qstore.safe_open(store, "pt", variant="bf16")


def test_unknown_framework(store: Path) -> None:
    with pytest.raises(UsageError, match="'jax'"):
        qstore.open(store, framework="jax")
