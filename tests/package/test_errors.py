"""What goes wrong is a QStoreError, and also what Python calls it, so that programs that know nothing of qstore handle
it as they would."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import qstore
from checkpoints import tree
from qstore import errors

BUILTINS = {
    errors.UsageError: ValueError,
    errors.UnknownNameError: KeyError,
    errors.InputError: ValueError,
    errors.DamagedError: Exception,
    errors.BusyError: Exception,
    errors.ChangedError: Exception,
    errors.FileError: OSError,
    errors.NotFoundError: FileNotFoundError,
    errors.ForbiddenError: PermissionError,
    errors.OutOfMemoryError: MemoryError,
}


def test_every_class_is_listed() -> None:
    found = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.QStoreError)}
    assert found == {errors.QStoreError, *BUILTINS}
    assert issubclass(errors.QStoreWarning, UserWarning)
    assert all(getattr(qstore, c.__name__) is c for c in [*found, errors.QStoreWarning])


@pytest.mark.parametrize(("class_", "builtin"), BUILTINS.items())
def test_is_one_of_pythons(class_: type[errors.QStoreError], builtin: type[Exception]) -> None:
    assert issubclass(class_, errors.QStoreError)
    assert issubclass(class_, builtin)
    assert class_.__doc__


@pytest.mark.parametrize("class_", [errors.QStoreError, *BUILTINS])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(class_: type[errors.QStoreError], protocol: int) -> None:
    os_error = issubclass(class_, OSError)
    made = class_(errno.EACCES, "a/b: no", Path("a/b")) if os_error else class_("a/b: no")
    made.path = Path("a/b")
    if isinstance(made, errors.DamagedError):
        made.problems = (errors.Problem("one", "int8"), errors.Problem("two", "bf16", tensor="x", chunk=3))
    for found in (pickle.loads(pickle.dumps(made, protocol)), copy.copy(made)):
        assert type(found) is class_
        assert str(found) == str(made) == "a/b: no"
        assert (found.args, found.__dict__) == (made.args, made.__dict__)
        if isinstance(found, OSError):
            assert (found.errno, found.filename) == (errno.EACCES, Path("a/b"))


def test_those_that_are_raised_pickle(store: Path, tmp_path: Path) -> None:
    raised = []
    for call in (
        lambda: qstore.open(tmp_path / "none"),
        lambda: qstore.open(store)["none"],
        lambda: qstore.unpack(store, "none", tmp_path / "target"),
        lambda: qstore.safe_open(store, "np"),
        lambda: qstore.pack({"a": tmp_path}, tmp_path / "new"),
    ):
        with pytest.raises(qstore.QStoreError) as caught:
            call()
        raised.append(caught.value)
    for error in raised:
        found = pickle.loads(pickle.dumps(error))
        assert (type(found), str(found), found.path) == (type(error), str(error), error.path)


@pytest.mark.parametrize("kind", [str, Path])
def test_missing_store(tmp_path: Path, kind: type) -> None:
    path = kind(tmp_path / "none")
    calls = [
        lambda: qstore.open(path),
        lambda: qstore.safe_open(path, "np"),
        lambda: qstore.inspect(path),
        lambda: qstore.verify(path),
        lambda: qstore.remove(path, "a"),
        lambda: qstore.unpack(path, "a", tmp_path / "target"),
    ]
    for call in calls:
        with pytest.raises(FileNotFoundError) as raised:
            call()
        error = raised.value
        assert isinstance(error, qstore.NotFoundError)
        assert error.errno == errno.ENOENT
        assert os.fspath(error.filename) == os.fspath(path)
        assert error.path is not None and os.fspath(error.path) == os.fspath(path)
        assert str(error).startswith(f"{path}: ")
    assert tree(tmp_path) == {}


def test_unknown_names(store: Path) -> None:
    with qstore.open(store) as opened:
        variant = opened["int8"]
        calls = {
            "no variant fp4": lambda: opened["fp4"],
            "no variant fp5": lambda: opened.variant("fp5"),
            "no variant fp6": lambda: qstore.safe_open(store, "np", variant="fp6"),
            "no tensor no.such": lambda: variant.get_tensor("no.such"),
            "no tensor nor.this": lambda: variant.get_slice("nor.this"),
            "no file none.json": lambda: variant.read_file("none.json"),
        }
        for text, call in calls.items():
            with pytest.raises(KeyError) as raised:
                call()
            assert isinstance(raised.value, qstore.UnknownNameError)
            assert text in str(raised.value)
            # KeyError would quote it.
            assert str(raised.value) == raised.value.args[0]
        assert "fp4" not in opened and "no.such" not in variant
        assert opened.get("fp4") is None
        # What there is instead is said.
        with pytest.raises(qstore.UnknownNameError, match="gptq4, int8, bf16"):
            opened["fp4"]


def test_several_variants_and_none_named(store: Path) -> None:
    for call in (lambda: qstore.safe_open(store, "np"), lambda: qstore.open(store).variant()):
        with pytest.raises(qstore.UsageError, match="int8"):
            call()


def test_closed(store: Path, framework: str) -> None:
    with qstore.open(store, framework=framework) as opened:
        variant = opened["int8"]
        slice_ = variant.get_slice("model.norm.weight")
    with pytest.raises(qstore.UsageError, match="closed"):
        opened["int8"]
    with qstore.safe_open(store, framework, variant="int8") as alone:
        alone_slice = alone.get_slice("model.norm.weight")
    for variant_, part in ((variant, slice_), (alone, alone_slice)):
        for call in (
            lambda v=variant_: v.get_tensor("model.norm.weight"),
            lambda v=variant_: v.get_tensors(),
            lambda v=variant_: v.files(),
            lambda v=variant_: v.metadata(),
            lambda v=variant_: v.read_file("config.json"),
            lambda v=variant_: v.bytes_read,
            lambda s=part: s[...],
            lambda s=part: s[0],
        ):
            with pytest.raises(qstore.UsageError, match="closed"):
                call()
        # Names are known without its files.
        assert variant_.keys() and len(variant_)
        variant_.close()
    opened.close()


def test_targets_that_are_taken(store: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = tree(tmp_path)
    for target in (taken, tmp_path / "file"):
        for call in (
            lambda t=target: qstore.pack(folders, t),
            lambda t=target: qstore.unpack(store, "int8", t),
        ):
            with pytest.raises((qstore.UsageError, qstore.FileError), match=target.name):
                call()
    with pytest.raises(qstore.UsageError, match="int8"):
        qstore.add(store, "int8", folders["bf16"])
    assert tree(tmp_path) == before


def test_folders_that_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no header")
    (tmp_path / "file").write_text("no folder")
    for name in ("empty", "broken"):
        with pytest.raises(qstore.InputError, match=name):
            qstore.pack({"a": tmp_path / name}, tmp_path / "store")
    with pytest.raises(qstore.NotFoundError, match="none"):
        qstore.pack({"a": tmp_path / "none"}, tmp_path / "store")
    with pytest.raises(qstore.UsageError, match="this is a file"):
        qstore.pack({"a": tmp_path / "file"}, tmp_path / "store")
    with pytest.raises(qstore.UsageError):
        qstore.pack({}, tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["", "two words", "../up", "-a", "a/b", "qstore.json", "a" * 65, "größe"])
def test_names_that_no_variant_can_have(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(qstore.UsageError):
        qstore.pack({name: folders["int8"]}, tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "options",
    [{"threads": -1}, {"threads": 1 << 70}, {"memory": 0}, {"memory": -1}, {"memory": 1 << 70}, {"shard_size": 0}],
)
def test_numbers_that_make_no_sense(folders: dict[str, Path], tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(qstore.UsageError, match=next(iter(options))):
        qstore.pack(folders, tmp_path / "store", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "store").exists()


def test_values_of_other_types(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(qstore.UsageError, match="name is text"):
        qstore.pack({1: folders["int8"]}, tmp_path / "store")  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="PathLike"):
        qstore.pack({"int8": 1}, tmp_path / "store")  # type: ignore[dict-item]
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_busy(folders: dict[str, Path], tmp_path: Path) -> None:
    """The lock is the one of docs/format.md, section 12; whoever holds it need not be qstore."""
    import fcntl

    store = tmp_path / "store"
    qstore.pack({"int8": folders["int8"], "bf16": folders["bf16"]}, store)
    (store / ".qstore-staging").mkdir()
    with (store / ".qstore-staging" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = tree(store)
        for call in (
            lambda: qstore.add(store, "more", folders["gptq4"]),
            lambda: qstore.remove(store, "int8"),
        ):
            with pytest.raises(qstore.BusyError) as raised:
                call()
            assert raised.value.path is not None
            assert os.fspath(raised.value.path) == os.fspath(store)
            assert str(store) in str(raised.value)
        assert tree(store) == before
        # Readers do not mind.
        assert qstore.verify(store).variants
    qstore.remove(store, "int8")
    assert qstore.open(store).variants == ("bf16",)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users")
def test_what_may_not_be_read(folders: dict[str, Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    qstore.pack({"int8": folders["int8"]}, store)
    (store / "qstore.json").chmod(0)
    user = os.geteuid()
    if user == 0:
        # To whom nothing is forbidden.
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError) as raised:
            qstore.open(store)
    finally:
        os.seteuid(user)
    assert type(raised.value) is qstore.ForbiddenError
    assert raised.value.errno == errno.EACCES


def test_what_the_system_refuses(folders: dict[str, Path], tmp_path: Path) -> None:
    """A folder cannot be made below a file."""
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(qstore.QStoreError) as raised:
        qstore.pack({"int8": folders["int8"]}, tmp_path / "file" / "store")
    assert isinstance(raised.value, qstore.FileError)
    assert raised.value.errno == errno.ENOTDIR
    assert "file" in str(raised.value)


LITTLE_MEMORY = """
import resource, sys
import numpy, ml_dtypes, qstore

variant = qstore.safe_open(sys.argv[1], "np")
variant.get_slice("zeros.0")[:9]
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (int(sys.argv[2]) << 20),) * 2)
for call in (
    lambda: variant.get_tensor("zeros.0"),
    lambda: variant.get_slice("zeros.0")[1:],
    lambda: variant.read_file("model-0.safetensors"),
    lambda: variant.get_tensors(),
):
    try:
        call()
    except MemoryError as error:
        print(type(error).__name__)
# What there is memory for still works.
print(variant.get_slice("zeros.7")[5].sum())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mebibytes", [40, 80, 100, 120, 140, 160])
def test_too_little_memory(zeros_store: Path, mebibytes: int) -> None:
    """For a tensor of 64 MiB, a file that is held twice, and all tensors, which are 512."""
    line = [sys.executable, "-c", LITTLE_MEMORY, str(zeros_store), str(mebibytes)]
    ran = subprocess.run(line, check=False, capture_output=True, text=True)
    *failed, last = ran.stdout.split()
    assert set(failed) == {"OutOfMemoryError"}, ran.stderr
    assert len(failed) == 4 if mebibytes == 40 else 1 <= len(failed) <= 4
    assert (last, ran.returncode) == ("0", 0), ran.stderr
