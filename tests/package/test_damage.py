"""A store that is not what was written raises a QStoreError, or what is read of it is right all the same. It never
crashes and never gives other data.

Bits of every file are flipped, files are cut, deleted, and replaced by what they are not. Bytes that pad a header may
hold anything that is JSON's white space, hence the second half of the rule.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest

import qstore
from arrays import raw
from checkpoints import Raw, model, read_safetensors, tree, write_pair
from qstore import DamagedError, NotFoundError, QStoreError

#: Places of each file in which a bit is flipped.
FLIPS = 60


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model, whose store is all tables and heads."""
    return write_pair(tmp_path_factory.mktemp("small"), model(8, [(96, 64), (40, 130)]))


@pytest.fixture(scope="module")
def expected(small: dict[str, Path]) -> dict[str, dict[str, Raw]]:
    return {name: read_safetensors(folder / "model.safetensors") for name, folder in small.items()}


@pytest.fixture(scope="module", params=[(), ("int8",)], ids=["packed", "verbatim"])
def whole(request: pytest.FixtureRequest, small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("damage") / "store"
    qstore.pack(small, target, verbatim=request.param)
    return target


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "store"))


Deed = Callable[[], None]


def deeds(store: Path, expected: dict[str, dict[str, Raw]], target: Path) -> dict[str, Deed]:
    """What people do with a store; each compares what it is given."""

    def one_by_one() -> None:
        with qstore.open(store) as opened:
            for variant, tensors in expected.items():
                for name, tensor in tensors.items():
                    assert raw(opened[variant].get_tensor(name)) == tensor.data, (variant, name)

    def all_at_once() -> None:
        for variant, tensors in expected.items():
            with qstore.safe_open(store, "np", variant=variant, threads=1) as opened:
                loaded = opened.get_tensors()
            assert {n: raw(array) for n, array in loaded.items()} == {n: tensor.data for n, tensor in tensors.items()}

    def rows() -> None:
        for variant, tensors in expected.items():
            with qstore.safe_open(store, "np", variant=variant) as opened:
                for name, tensor in tensors.items():
                    if tensor.shape:
                        size = len(tensor.data) // max(tensor.shape[0], 1)
                        assert raw(opened.get_slice(name)[1:7]) == tensor.data[size : 7 * size], (variant, name)

    def unpack() -> None:
        for variant in expected:
            qstore.unpack(store, variant, target / variant)
        shutil.rmtree(target)

    def verify() -> None:
        qstore.verify(store)
        qstore.verify(store, quick=True)

    def inspect() -> None:
        qstore.inspect(store, tensors=True)

    return {f.__name__: f for f in (one_by_one, all_at_once, rows, unpack, verify, inspect)}


def errors(store: Path, expected: dict[str, dict[str, Raw]], without: Collection[str] = ()) -> dict[str, QStoreError]:
    """What each deed raised. Anything but a QStoreError goes through, other data too."""
    raised = {}
    target = store.parent / "restored"
    for name, deed in deeds(store, expected, target).items():
        if name in without:
            continue
        try:
            deed()
        except QStoreError as error:
            assert str(error)
            raised[name] = error
        shutil.rmtree(target, ignore_errors=True)
    return raised


def files(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


def test_whole_stores_raise_nothing(damaged: Path, expected: dict[str, dict[str, Raw]]) -> None:
    assert errors(damaged, expected) == {}


def test_flipped_bits(damaged: Path, expected: dict[str, dict[str, Raw]]) -> None:
    rng = np.random.default_rng(13)
    noticed = flipped = 0
    for path in files(damaged):
        intact = path.read_bytes()
        places = {*range(min(10, len(intact))), len(intact) - 1, *map(int, rng.integers(0, len(intact), FLIPS))}
        for place in sorted(places):
            changed = bytearray(intact)
            changed[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            # Each restored file is synced, which takes long on some disks.
            noticed += bool(errors(damaged, expected, without=() if flipped % 8 == 0 else ("unpack",)))
            flipped += 1
        path.write_bytes(intact)
    assert errors(damaged, expected) == {}
    # Almost every bit says something.
    assert noticed > 0.9 * flipped


def test_verify_notices_what_others_do(damaged: Path, expected: dict[str, dict[str, Raw]]) -> None:
    """Whatever makes reading fail, `verify` has told before."""
    rng = np.random.default_rng(14)
    for path in files(damaged):
        intact = path.read_bytes()
        for place in rng.integers(0, len(intact), 8):
            changed = bytearray(intact)
            changed[place] = int(rng.integers(256))
            path.write_bytes(changed)
            raised = errors(damaged, expected, without=("unpack",))
            assert "verify" in raised or not raised.keys() - {"inspect"}, (path.name, place, raised)
        path.write_bytes(intact)


def test_cut_files(damaged: Path, expected: dict[str, dict[str, Raw]]) -> None:
    for path in files(damaged):
        intact = path.read_bytes()
        for length in {0, 1, 7, 8, 9, len(intact) // 3, len(intact) - 2}:
            path.write_bytes(intact[:length])
            raised = errors(damaged, expected)
            assert "verify" in raised, (path.name, length)
            assert "unpack" in raised, (path.name, length)
        path.write_bytes(intact + b"\0")
        assert "verify" in errors(damaged, expected)
        path.write_bytes(intact)


def test_deleted_files(damaged: Path, expected: dict[str, dict[str, Raw]]) -> None:
    for path in files(damaged):
        shutil.move(path, damaged.parent / "away")
        raised = errors(damaged, expected)
        assert {"unpack", "verify"} <= raised.keys(), path.name
        found = [raised[deed] for deed in ("unpack", "one_by_one") if deed in raised]
        for error in found:
            assert isinstance(error, NotFoundError), (path.name, error)
            assert isinstance(error, FileNotFoundError)
            assert error.errno == errno.ENOENT
            assert os.fspath(error.filename) in (os.fspath(path), os.fspath(damaged))
        shutil.move(damaged.parent / "away", path)


def shard(store: Path, variant: str) -> Path:
    (inspected,) = (v for v in qstore.inspect(store).variants if v.name == variant)
    # Those in folders are kept files.
    (name,) = (name for name in inspected.stored_files if "/" not in name)
    return store / name


def test_a_variant_needs_no_shard_of_another(damaged: Path, expected: dict[str, dict[str, Raw]]) -> None:
    shard(damaged, "bf16").unlink()
    with qstore.open(damaged) as store:
        assert store.variants == ("int8", "bf16")
        loaded = store["int8"].get_tensors()
        assert {name: raw(array) for name, array in loaded.items()} == {n: t.data for n, t in expected["int8"].items()}
        with pytest.raises(NotFoundError):
            store["bf16"]
    assert [variant.name for variant in qstore.verify(damaged, "int8").variants] == ["int8"]
    shard(damaged, "int8").unlink()
    with qstore.open(damaged) as store, pytest.raises(NotFoundError):
        store["int8"]


def test_verify_lists_all_that_is_wrong(damaged: Path) -> None:
    paths = [shard(damaged, name) for name in ("int8", "bf16")]
    for path in paths:
        data = bytearray(path.read_bytes())
        data[8 + int.from_bytes(data[:8], "little") + 40] ^= 4
        path.write_bytes(data)
    for quick in (False, True):
        with pytest.raises(DamagedError) as raised:
            qstore.verify(damaged, quick=quick)
        error = raised.value
        assert isinstance(error.problems, tuple)
        assert error.path == damaged
        # What is wrong with one is wrong with whatever is given it.
        assert {line.partition(":")[0] for line in str(error).splitlines()} == {"int8", "bf16"}
        assert {problem.variant for problem in error.problems} <= {"int8", "bf16"}
        assert all(any(path.name in problem.text for path in paths) for problem in error.problems)
        assert len(str(error).splitlines()) == len(error.problems)
        with pytest.raises(DamagedError) as raised:
            qstore.verify(damaged, "int8", quick=quick)
        assert {problem.variant for problem in raised.value.problems} == {"int8"}


def test_inspect_tells_what_cannot_be_read(damaged: Path) -> None:
    path = shard(damaged, "bf16")
    path.write_bytes(path.read_bytes()[:50])
    variants = {variant.name: variant for variant in qstore.inspect(damaged, tensors=True).variants}
    assert variants["int8"].problem is None
    assert variants["int8"].tensors
    assert path.name in str(variants["bf16"].problem)
    assert not variants["bf16"].files and not variants["bf16"].tensors
    assert variants["bf16"].read_bytes is None


GARBAGE = {
    "nothing": b"",
    "no fields": b"{}",
    "a list": b"[]",
    "not JSON": b"not JSON",
    "not UTF-8": b"\xff\xfe{\x80}",
    "zeros": b"\0" * 4096,
    "deep": b'{"format": "qstore", "variants": ' + b"[" * 200_000,
    "large numbers": b'{"format": "qstore", "format_version": 1e400, "variants": [], "checksum": 99999999999999999999999}',
    "no variants": b'{"format": "qstore", "format_version": 1, "variants": [], "checksum": "' + b"0" * 32 + b'"}',
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_for_a_manifest(damaged: Path, expected: dict[str, dict[str, Raw]], what: str) -> None:
    (damaged / "qstore.json").write_bytes(GARBAGE[what])
    raised = errors(damaged, expected)
    assert len(raised) == 6
    assert all(isinstance(error, DamagedError) for error in raised.values()), raised


def test_a_manifest_of_another_version(damaged: Path, expected: dict[str, dict[str, Raw]]) -> None:
    path = damaged / "qstore.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"format_version": 999}))
    raised = errors(damaged, expected)
    assert len(raised) == 6
    assert all("999" in str(error) for error in raised.values()), raised


def test_what_is_no_store(tmp_path: Path, expected: dict[str, dict[str, Raw]]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    for name in ("empty", "none"):
        raised = errors(tmp_path / name, expected)
        assert len(raised) == 6
        assert all(isinstance(error, NotFoundError) for error in raised.values()), raised
    assert len(errors(tmp_path / "file", expected)) == 6


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_what_lies_where_files_were(damaged: Path, expected: dict[str, dict[str, Raw]], tmp_path: Path) -> None:
    """A folder, a pipe that nobody writes to, and a link to the same file elsewhere, which docs/format.md forbids."""
    for path in files(damaged):
        away = tmp_path / "away"
        shutil.move(path, away)
        path.mkdir()
        assert errors(damaged, expected), path.name
        path.rmdir()
        os.mkfifo(path)
        assert errors(damaged, expected), path.name
        path.unlink()
        path.symlink_to(away)
        if path.name != "qstore.json":
            assert errors(damaged, expected), path.name
        path.unlink()
        shutil.move(away, path)


def test_nothing_changes_what_is_damaged(
    damaged: Path, expected: dict[str, dict[str, Raw]], small: dict[str, Path]
) -> None:
    path = shard(damaged, "int8")
    path.write_bytes(path.read_bytes()[:-9])
    before = tree(damaged)
    errors(damaged, expected)
    for call in (
        lambda: qstore.add(damaged, "again", damaged / "none"),
        lambda: qstore.add(damaged, "again", small["bf16"]),
        lambda: qstore.remove(damaged, "int8"),
        lambda: qstore.pack(small, damaged),
    ):
        with pytest.raises(QStoreError):
            call()
    assert tree(damaged) == before
