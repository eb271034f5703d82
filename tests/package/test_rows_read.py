"""One row of a matrix costs the chunks that hold it, of the matrix and of what it is given, and no more.

`bytes_read` counts what is read of the store's files. A chunk of a matrix of this width is 128 rows, so that the bound
of a hundredth is some 60 KB above what is read; whoever reads two chunks, or all, is far beyond it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qstore
from arrays import raw
from checkpoints import Array, llm_int8, weights, write_folder

NAME = "model.layers.0.mlp.up_proj.weight"
ROWS, COLUMNS = 14336, 4096


@pytest.fixture(scope="module")
def matrix() -> Array:
    """Of a Llama of 8 billion weights. Its rows are some thousand drawn ones, each several times with another
    factor."""
    rng = np.random.default_rng(11)
    some = weights(rng, (ROWS // 8, COLUMNS))
    return np.concatenate([some * some.dtype.type(1 + number / 8) for number in range(8)])


@pytest.fixture(scope="module")
def wide(matrix: Array, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wide")
    for name, tensors in {"bf16": {NAME: matrix}, "int8": llm_int8({NAME: matrix})}.items():
        write_folder(root / name, tensors, {}, None)
    qstore.pack({name: root / name for name in ("bf16", "int8")}, root / "store")
    return root / "store"


@pytest.fixture(scope="module")
def stored(wide: Path) -> dict[tuple[str, str], qstore.TensorInspection]:
    variants = qstore.inspect(wide, tensors=True).variants
    return {(variant.name, tensor.name): tensor for variant in variants for tensor in variant.tensors}


def test_a_row_given_codes(
    wide: Path, stored: dict[tuple[str, str], qstore.TensorInspection], matrix: Array, framework: str
) -> None:
    residual, codes = stored["bf16", NAME], stored["int8", NAME]
    scales = stored["int8", NAME.replace(".weight", ".SCB")]
    assert (residual.encoding, residual.given) == ("residual", "int8")
    with qstore.safe_open(wide, framework, variant="bf16") as opened:
        slice_ = opened.get_slice(NAME)
        for row in (0, 1, 5000, ROWS - 1, -ROWS):
            before = opened.bytes_read
            assert raw(slice_[row]) == matrix[row].tobytes()
            read = opened.bytes_read - before
            assert 0 < read <= (residual.stored_bytes + codes.stored_bytes) / 100 + scales.stored_bytes
            assert read < 0.03 * residual.stored_bytes


def test_a_second_row_reads_no_tables_again(wide: Path, stored: dict[tuple[str, str], qstore.TensorInspection]) -> None:
    scales = stored["int8", NAME.replace(".weight", ".SCB")]
    with qstore.safe_open(wide, "np", variant="bf16") as opened:
        read = [opened.bytes_read]
        for _ in range(2):
            opened.get_slice(NAME)[100]
            read.append(opened.bytes_read)
    first, second = read[1] - read[0], read[2] - read[1]
    # The scales' chunks; their tables came with opening.
    assert 0 < second <= first - scales.stored_bytes * 9 // 10


def test_a_row_of_codes_reads_nothing_of_floats(
    wide: Path, stored: dict[tuple[str, str], qstore.TensorInspection], framework: str
) -> None:
    codes = stored["int8", NAME]
    with qstore.safe_open(wide, framework, variant="int8") as opened:
        opened_with = opened.bytes_read
        opened.get_slice(NAME)[4321]
        assert 0 < opened.bytes_read - opened_with <= codes.stored_bytes / 100
        opened.get_slice(NAME)[:0]
        layers = {variant.name: variant.stored_files for variant in qstore.inspect(wide).variants}
        opened.get_tensors()
        size = sum((wide / name).stat().st_size for name in layers["int8"])
        assert opened.bytes_read <= 1.03 * size


def test_several_rows_read_their_chunks(
    wide: Path, stored: dict[tuple[str, str], qstore.TensorInspection], matrix: Array
) -> None:
    both = stored["bf16", NAME].stored_bytes + stored["int8", NAME].stored_bytes
    with qstore.safe_open(wide, "np", variant="bf16") as opened:
        slice_ = opened.get_slice(NAME)
        for rows in (slice(1000, 1100), slice(ROWS, ROWS // 2, -7), slice(3, 14000, 2000)):
            before = opened.bytes_read
            assert raw(slice_[rows]) == matrix[rows].tobytes()
            wanted = range(*rows.indices(ROWS))
            span = abs(wanted[-1] - wanted[0]) / ROWS
            assert opened.bytes_read - before <= (span + 0.03) * both


def test_opening_reads_no_tensors(wide: Path, stored: dict[tuple[str, str], qstore.TensorInspection]) -> None:
    with qstore.open(wide) as store:
        assert store["bf16"].bytes_read < 0.01 * stored["bf16", NAME].stored_bytes
        assert store["bf16"].get_slice(NAME).get_shape() == [ROWS, COLUMNS]
        assert store["bf16"].bytes_read < 0.01 * stored["bf16", NAME].stored_bytes
