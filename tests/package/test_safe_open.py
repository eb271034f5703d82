"""`qstore.safe_open` is `safetensors.safe_open`: the same calls, on a store and on the file that it was made of, give
the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors

import qstore
from arrays import raw, same
from checkpoints import Raw, read_safetensors, write_safetensors

VARIANTS = ["bf16", "int8", "gptq4"]


@pytest.fixture(params=VARIANTS)
def both(
    request: pytest.FixtureRequest, store: Path, folders: dict[str, Path], framework: str
) -> Iterator[tuple[qstore.Variant, Any]]:
    """Ours and theirs."""
    with ExitStack() as stack:
        ours = stack.enter_context(qstore.safe_open(store, framework, variant=request.param))
        file = folders[request.param] / "model.safetensors"
        yield ours, stack.enter_context(safetensors.safe_open(file, framework=framework))


def test_names(both: tuple[qstore.Variant, Any]) -> None:
    ours, theirs = both
    assert ours.keys() == theirs.keys()
    assert ours.keys() == sorted(ours.keys())
    assert ours.offset_keys() == theirs.offset_keys()
    assert list(ours) == ours.keys()
    assert len(ours) == len(theirs.keys())
    assert all(name in ours for name in theirs.keys())  # noqa: SIM118  (theirs is no mapping)


def test_metadata(both: tuple[qstore.Variant, Any]) -> None:
    ours, theirs = both
    assert ours.metadata() == theirs.metadata()


def test_slices(both: tuple[qstore.Variant, Any]) -> None:
    ours, theirs = both
    for name in theirs.offset_keys():
        left, right = ours.get_slice(name), theirs.get_slice(name)
        assert left.get_shape() == right.get_shape()
        assert left.get_dtype() == right.get_dtype()
        assert type(left.get_shape()) is type(right.get_shape())


def test_tensors(both: tuple[qstore.Variant, Any], framework: str) -> None:
    ours, theirs = both
    for name in theirs.offset_keys():
        dtype = ours.get_slice(name).get_dtype()
        if framework == "np" and dtype == "BF16":
            # numpy alone has no such type, and safetensors does not know of ml_dtypes.
            assert ours.get_tensor(name).dtype == ml_dtypes.bfloat16
            continue
        assert same(ours.get_tensor(name), theirs.get_tensor(name)), name
        if ours.get_slice(name).get_shape():
            # safetensors takes no slice of what has no rows.
            rows = slice(0, ours.get_slice(name).get_shape()[0] // 2)
            assert raw(ours.get_slice(name)[rows]) == raw(theirs.get_slice(name)[rows]), name


def test_all_tensors_come_in_the_order_of_the_file(both: tuple[qstore.Variant, Any]) -> None:
    ours, theirs = both
    assert list(ours.get_tensors()) == theirs.offset_keys()


def test_files(store: Path, folders: dict[str, Path]) -> None:
    with qstore.open(store) as opened:
        for variant, folder in folders.items():
            files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            assert opened[variant].files() == {name: path.stat().st_size for name, path in files.items()}
            for name, path in files.items():
                assert opened[variant].read_file(name) == path.read_bytes()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of two files, each with metadata of its own, that share a name of a tensor."""
    folder = tmp_path / "shards"
    folder.mkdir()
    number = np.arange(6, dtype=np.int32)
    first = {"b": Raw("I32", (2, 3), number.tobytes()), "twice": Raw("I32", (1,), number[:1].tobytes())}
    second = {"a": Raw("I32", (6,), number.tobytes()), "twice": Raw("I32", (1,), number[1:2].tobytes())}
    write_safetensors(folder / "model-1.safetensors", first, {"format": "pt", "one": "1"})
    write_safetensors(folder / "model-2.safetensors", second, {"format": "pt", "two": "2"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))
    return folder


def test_several_files_are_one(shards: Path, tmp_path: Path, framework: str) -> None:
    qstore.pack({"only": shards}, tmp_path / "store")
    with qstore.safe_open(tmp_path / "store", framework) as opened:
        # The first file's tensor keeps its name.
        names = ["twice", "model-2.safetensors:twice"]
        assert opened.keys() == sorted(["a", "b", *names])
        assert opened.offset_keys() == ["b", names[0], "a", names[1]]
        metadata = opened.metadata()
        assert metadata is not None
        assert metadata["format"] == "pt"
        for name, number in zip(names, (0, 1), strict=True):
            assert opened.get_tensor(name).tolist() == [number]
        for file, tensors in {1: ("b",), 2: ("a",)}.items():
            found = read_safetensors(shards / f"model-{file}.safetensors")
            assert all(raw(opened.get_tensor(name)) == found[name].data for name in tensors)


def test_no_metadata_is_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write_safetensors(tmp_path / "folder" / "a.safetensors", {"a": Raw("U8", (1,), b"\1")})
    qstore.pack({"only": tmp_path / "folder"}, tmp_path / "store")
    assert qstore.safe_open(tmp_path / "store", "np").metadata() is None


def test_a_folder_without_tensors(tmp_path: Path, framework: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "tokenizer.json").write_text("{}")
    qstore.pack({"only": tmp_path / "folder"}, tmp_path / "store")
    with qstore.safe_open(tmp_path / "store", framework) as opened:
        assert (opened.keys(), opened.get_tensors(), opened.metadata()) == ([], {}, None)
        assert opened.read_file("tokenizer.json") == b"{}"


def test_a_store_is_a_mapping(store: Path) -> None:
    with qstore.open(store) as opened:
        assert opened.variants == tuple(opened) == ("gptq4", "int8", "bf16")
        assert len(opened) == 3
        assert opened["int8"] is opened["int8"] is opened.variant("int8")
        assert dict(opened.items()) == {name: opened[name] for name in VARIANTS}
        # Two are not one because they hold the same.
        other = qstore.open(store)
        assert opened != other and len({opened, opened, other}) == 2
        assert repr(opened) == f"<qstore.Store {str(store)!r}: gptq4, int8, bf16>"
        assert repr(opened["int8"]) == f"<qstore.Variant int8: {len(opened['int8'])} tensors>"
