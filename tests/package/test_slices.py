"""Slices are those of numpy and of torch: whatever index these take of a whole tensor, a slice takes, and gives the
same.

Of a tensor that is stored given others, rows are decoded with the rows of the others that they are given; of one that
is stored turned, such as the weights of GPT-2, rows are columns of what is stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from arrays import held, is_contiguous, raw, same
from checkpoints import Raw, Tensors, llm_int8, weights, write_folder
from qstore import UsageError

ROUNDS = 60

#: Tensors of the store by what there is about them.
TENSORS = {
    "bf16": [
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.temperature",
        "model.positions",
        "model.none",
    ],
    "int8": ["model.layers.2.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.SCB", "model.positions"],
    "gptq4": [f"model.layers.2.mlp.up_proj.{part}" for part in ("qweight", "qzeros", "scales", "g_idx")],
}
CASES = [(variant, name) for variant, names in TENSORS.items() for name in names]


def draw_part(rng: np.random.Generator, size: int) -> Any:
    """An index of a dimension of `size`, sometimes out of its bounds."""
    kind = rng.integers(10)
    if kind < 3:
        return int(rng.integers(-size - (size < 9), size + 1))
    if kind == 3:
        return np.int16(rng.integers(-size, max(size, 1)))

    def bound() -> int | None:
        return None if rng.random() < 0.3 else int(rng.integers(-size - 3, size + 4))

    step = int(rng.choice([-7, -2, -1, 1, 1, 2, 3, size + 1])) if rng.random() < 0.7 else None
    return slice(bound(), bound(), step)


def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """A number, a slice, or a tuple of these with `...` and `None` in between; rarely more than there are
    dimensions."""
    if rng.random() < 0.3:
        return draw_part(rng, shape[0] if shape else 1)
    count = int(rng.integers(len(shape) + 1 + (rng.random() < 0.1)))
    index = [draw_part(rng, shape[at] if at < len(shape) else 2) for at in range(count)]
    for part, chance in ((..., 0.25), (None, 0.2)):
        while rng.random() < chance:
            index.insert(int(rng.integers(len(index) + 1)), part)
    return tuple(index)


def outcome(array: Any, index: Any) -> Any:
    """A part of an array, or the class of the exception that there is instead."""
    try:
        return array[index]
    except (IndexError, ValueError) as error:
        # Which of two mistakes is told is nobody's promise.
        assert type(error) in (IndexError, ValueError), repr(error)
        return "refused"


def assert_indexes_alike(slice_: qstore.TensorSlice, whole: Any, index: Any) -> bool:
    """That a slice gives what the whole does, in memory of its own and no more; says whether there was anything."""
    expected, found = outcome(whole, index), outcome(slice_, index)
    if isinstance(expected, str) or isinstance(found, str):
        assert isinstance(expected, str) and isinstance(found, str), index
        return False
    # Of numpy, a number is an array of no dimensions, as a tensor is of torch.
    assert same(np.asarray(expected) if isinstance(whole, np.ndarray) else expected, found), index
    assert is_contiguous(found), index
    assert held(found) == len(raw(found)), index
    return True


@pytest.mark.parametrize(("variant", "name"), CASES)
def test_random_indices(
    store: Path, originals: dict[str, dict[str, Raw]], framework: str, variant: str, name: str
) -> None:
    rng = np.random.default_rng(len(name))
    with qstore.open(store, framework=framework) as opened:
        whole, slice_ = opened[variant].get_tensor(name), opened[variant].get_slice(name)
        assert raw(whole) == originals[variant][name].data
        given = sum(assert_indexes_alike(slice_, whole, draw(rng, tuple(whole.shape))) for _ in range(ROUNDS))
    # Otherwise this says less than it seems to.
    assert given > ROUNDS // 4


def test_store_is_what_these_tests_are_about(store: Path) -> None:
    variants = {variant.name: variant for variant in qstore.inspect(store, tensors=True).variants}
    encodings = {tensor.name: tensor.encoding for tensor in variants["bf16"].tensors}
    assert encodings["model.layers.2.mlp.up_proj.weight"] in ("residual", "step-residual", "refine-floats")
    assert encodings["model.embed_tokens.weight"] == "reference"
    packed = {tensor.encoding for name in ("int8", "gptq4") for tensor in variants[name].tensors}
    assert packed >= {"codes", "code-residual", "slice"}


INDICES: list[Any] = [
    0,
    -1,
    7,
    -8,
    8,
    -9,
    2**70,
    slice(None),
    slice(2, 5),
    slice(5, 2),
    slice(-3, None),
    slice(100, 200),
    slice(-100, 3),
    slice(None, None, 3),
    slice(7, None, 100),
    slice(0, 2**70),
    ...,
    None,
    (),
    (...,),
    (3, 4),
    (3, -6),
    (3, 5),
    (slice(2, 4), 1),
    (slice(2, 4), slice(None, None, 2)),
    (..., 1),
    (..., slice(1, 3)),
    (2, ...),
    (None, 2),
    (2, None),
    (None, ..., None),
    (slice(6, 2), 3),
    (0, 0, 0),
    (..., 0, 0, 0),
    (slice(None), slice(None), slice(None)),
]
#: numpy goes backwards, and torch raises ValueError.
BACKWARDS = [
    slice(None, None, -1),
    slice(6, 2, -2),
    slice(2, 6, -1),
    (slice(None), slice(None, None, -1)),
    (3, slice(None, None, -1)),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rows of five, a vector, and a number."""
    root = tmp_path_factory.mktemp("table")
    tensors: Tensors = {
        "table": np.arange(40, dtype=np.float32).reshape(8, 5),
        "vector": np.arange(8),
        "number": np.array(3),
    }
    write_folder(root / "folder", tensors, {}, None)
    qstore.pack({"only": root / "folder"}, root / "store")
    return root / "store"


@pytest.mark.parametrize("index", INDICES + BACKWARDS, ids=repr)
def test_index(table: Path, framework: str, index: Any) -> None:
    with qstore.safe_open(table, framework) as opened:
        for name in ("table", "vector", "number"):
            if framework == "pt" and index == slice(0, 2**70):
                # torch overflows where Python's sequences and numpy do not; a slice of rows never asks it.
                continue
            assert_indexes_alike(opened.get_slice(name), opened.get_tensor(name), index)


@pytest.mark.parametrize("index", BACKWARDS, ids=repr)
def test_backwards(table: Path, framework: str, index: Any) -> None:
    slice_ = qstore.safe_open(table, framework).get_slice("table")
    if framework == "np":
        assert slice_[index].tolist() == np.arange(40).reshape(8, 5)[index].tolist()
    else:
        with pytest.raises(ValueError, match="step"):
            slice_[index]


def test_too_many_or_too_large(table: Path, framework: str) -> None:
    with qstore.safe_open(table, framework) as opened:
        for name, index in [
            ("table", (0, 0, 0)),
            ("table", 8),
            ("table", -9),
            ("table", (0, 5)),
            ("table", (slice(None), -6)),
            ("vector", (0, 0)),
            ("number", 0),
            ("number", slice(None)),
        ]:
            with pytest.raises(IndexError):
                opened.get_slice(name)[index]


class Three:
    """What acts as a whole number is one."""

    def __index__(self) -> int:
        return 3


def test_whole_numbers_of_all_kinds(table: Path, framework: str) -> None:
    with qstore.safe_open(table, framework) as opened:
        for number in (3, np.int8(3), np.uint64(3), Three()):
            assert opened.get_slice("vector")[number].tolist() == 3
            assert opened.get_slice("table")[1, number].tolist() == 8
            assert opened.get_slice("vector")[number : np.int32(5)].tolist() == [3, 4]


@pytest.mark.parametrize(
    "part", [True, np.True_, [1], [True] * 8, (1,), np.array([0, 2]), np.ones(8, bool), "1", 1.0, b"1", {}], ids=repr
)
def test_what_is_no_index(table: Path, framework: str, part: Any) -> None:
    slice_ = qstore.safe_open(table, framework).get_slice("table")
    indices = [(0, part), (slice(0, 3), part), (..., part)]
    # A tuple by itself is an index.
    for index in indices if isinstance(part, tuple) else [part, *indices]:
        with pytest.raises(UsageError, match="table"):
            slice_[index]
    assert slice_[0].tolist() == [0, 1, 2, 3, 4]


def test_a_part_is_all_that_is_kept(zeros_store: Path, framework: str) -> None:
    with qstore.safe_open(zeros_store, framework) as opened:
        slice_ = opened.get_slice("zeros.0")
        rows, columns = slice_.get_shape()
        assert held(slice_[7]) == columns
        assert held(slice_[7, 5]) == 1
        assert held(slice_[5:9, ::2]) == 4 * columns // 2
        assert held(slice_[..., 0]) == rows
        assert held(slice_[:0]) == 0


def test_rows_of_what_is_stored_turned(tmp_path: Path, framework: str) -> None:
    """`Conv1D` of GPT-2 is quantised transposed: a row of the weights is a column of the codes."""
    straight = {"h.0.mlp.c_proj.weight": weights(np.random.default_rng(5), (768, 1000))}
    write_folder(tmp_path / "int8", llm_int8(straight), {}, None)
    turned = {name: np.ascontiguousarray(matrix.T) for name, matrix in straight.items()}
    write_folder(tmp_path / "bf16", turned, {}, None)
    qstore.pack({name: tmp_path / name for name in ("bf16", "int8")}, tmp_path / "store")
    (tensor,) = qstore.inspect(tmp_path / "store", tensors=True).variants[1].tensors
    assert (tensor.encoding, tensor.shape) == ("residual", (1000, 768))
    rng = np.random.default_rng(6)
    with qstore.open(tmp_path / "store", framework=framework) as store:
        whole, slice_ = store["bf16"].get_tensor(tensor.name), store["bf16"].get_slice(tensor.name)
        assert raw(whole) == turned[tensor.name].tobytes()
        assert sum(assert_indexes_alike(slice_, whole, draw(rng, tensor.shape)) for _ in range(40)) > 10


def test_shows_what_it_is(table: Path) -> None:
    slice_ = qstore.safe_open(table, "np").get_slice("table")
    assert (slice_.name, slice_.get_shape(), slice_.get_dtype()) == ("table", [8, 5], "F32")
    assert repr(slice_) == "<qstore.TensorSlice table: F32 [8, 5]>"
