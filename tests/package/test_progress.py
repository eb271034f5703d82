"""Progress is told on the caller's thread; what it raises, and Ctrl-C, end an operation as if it had not begun.

The model is one of zeros, half a gigabyte to read, so that an operation is far from its end when it first tells of
progress.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import qstore
import qstore.numpy
from checkpoints import llm_int8, model, tree, write_folder, write_zeros


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []
        self.threads: set[int] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.told.append((stage, done, total))
        self.threads.add(threading.get_ident())

    def check(self, *stages: str) -> None:
        """That these were told of, one after another, each from nothing to all of it."""
        assert self.threads == {threading.get_ident()}
        by_stage: dict[str, list[tuple[int, int]]] = {}
        order: list[str] = []
        for stage, done, total in self.told:
            if not order or order[-1] != stage:
                order.append(stage)
            by_stage.setdefault(stage, []).append((done, total))
        # None of them comes back after another.
        assert order == list(by_stage)
        assert order == list(stages)
        for told in by_stage.values():
            totals = {total for _, total in told}
            assert len(totals) == 1
            assert told[0][0] == 0
            assert all(before <= after for (before, _), (after, _) in pairwise(told))
            assert told[-1][0] == told[-1][1]


def test_what_each_operation_tells(folders: dict[str, Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    calls: list[tuple[Callable[[Recorder], object], tuple[str, ...]]] = [
        (
            lambda told: qstore.pack({n: folders[n] for n in ("bf16", "int8")}, store, progress=told),
            ("storing int8", "storing bf16"),
        ),
        (
            lambda told: qstore.add(store, "gptq4", folders["gptq4"], progress=told),
            ("storing gptq4", "storing int8", "storing bf16"),
        ),
        (lambda told: qstore.verify(store, progress=told), ("verifying gptq4", "verifying int8", "verifying bf16")),
        (lambda told: qstore.verify(store, "int8", progress=told, quick=True), ("checking int8",)),
        (lambda told: qstore.unpack(store, "bf16", tmp_path / "bf16", progress=told), ("restoring bf16",)),
        (lambda told: qstore.open(store)["bf16"].get_tensors(progress=told), ("loading bf16",)),
        (lambda told: qstore.numpy.load_file(store, variant="int8", progress=told), ("loading int8",)),
        (lambda told: qstore.remove(store, "gptq4", progress=told), ("storing int8", "storing bf16")),
    ]
    for call, stages in calls:
        told = Recorder()
        call(told)
        told.check(*stages)


def test_it_is_told_while_it_happens(zeros: Path, tmp_path: Path) -> None:
    told = Recorder()
    qstore.pack({"zeros": zeros}, tmp_path / "store", threads=1, progress=told)
    told.check("storing zeros")
    assert len(told.told) > 2
    assert any(0 < done < total for _, done, total in told.told)


def test_no_progress_is_none(folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    qstore.pack({"int8": folders["int8"]}, tmp_path / "store", progress=False)
    qstore.verify(tmp_path / "store", progress=None)
    assert capfd.readouterr() == ("", "")


def test_a_function_may_be_empty(folders: dict[str, Path], tmp_path: Path) -> None:
    class Told(list[str]):
        def __call__(self, stage: str, done: int, total: int) -> None:
            self.append(stage)

    told = Told()
    qstore.pack({"int8": folders["int8"]}, tmp_path / "store", progress=told)
    assert set(told) == {"storing int8"}


PANICS = """
import sys
import qstore

def raises(error):
    def callback(stage, done, total):
        raise error
    try:
        qstore.verify(sys.argv[1], progress=callback)
    except BaseException as caught:
        return caught is error

raises(ValueError())
# Which is there once pyo3 has compared an exception with it.
(panic,) = (c for c in BaseException.__subclasses__() if c.__name__ == "PanicException")
raises(panic("as if"))
print("not stuck", raises(ValueError()))
"""


def test_a_panic_in_it_ends_the_operation_as_well(zeros_store: Path) -> None:
    """Rust's exceptions go their own way: past whoever waits for the thread that works, which then waited for ever."""
    line = [sys.executable, "-c", PANICS, str(zeros_store)]
    ran = subprocess.run(line, check=False, capture_output=True, text=True, timeout=120)
    assert ran.stdout == "not stuck True\n", ran.stderr


class StopError(Exception):
    """Nothing of qstore's."""


OPERATIONS: dict[str, Callable[[Path, Path, Path, Any], object]] = {
    "pack": lambda zeros, store, target, told: qstore.pack({"zeros": zeros}, target, threads=1, progress=told),
    "unpack": lambda zeros, store, target, told: qstore.unpack(store, "zeros", target, threads=1, progress=told),
    "verify": lambda zeros, store, target, told: qstore.verify(store, threads=1, progress=told),
    "get_tensors": lambda zeros, store, target, told: qstore.open(store, threads=1)["zeros"].get_tensors(progress=told),
}


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_it_raises_ends_the_operation(
    zeros: Path, zeros_store: Path, tmp_path: Path, operation: str, error: type[BaseException]
) -> None:
    raised = error("enough")
    told = Recorder()

    def callback(stage: str, done: int, total: int) -> None:
        told(stage, done, total)
        raise raised

    with pytest.raises(error) as caught:
        OPERATIONS[operation](zeros, zeros_store, tmp_path / "target", callback)
    assert caught.value is raised
    # After that, nothing is told.
    assert len(told.told) == 1
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("what", ["first call", "no function"])
def test_a_short_operation_does_not_escape(folders: dict[str, Path], tmp_path: Path, what: str) -> None:
    """It does not begin before it was told that it does."""

    def callback(stage: str, done: int, total: int) -> None:
        assert done == 0
        raise StopError

    for _ in range(20):
        with pytest.raises(StopError if what == "first call" else qstore.UsageError):
            qstore.pack(folders, tmp_path / "store", progress=callback if what == "first call" else 3)  # type: ignore[arg-type]
        assert tree(tmp_path) == {}


def test_a_store_that_is_not_added_to_is_unchanged(zeros: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    qstore.pack({"int8": folders["int8"]}, store)
    before = tree(store)

    def callback(stage: str, done: int, total: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        qstore.add(store, "zeros", zeros, threads=1, progress=callback)
    assert tree(store) == before
    qstore.verify(store)


def test_warnings_may_be_errors(folders: dict[str, Path], tmp_path: Path) -> None:
    """`python -W error` makes a warning end what warns."""
    program = (
        "import sys, qstore\n"
        "try:\n"
        "    qstore.pack({'bf16': sys.argv[1], 'other': sys.argv[2]}, sys.argv[3])\n"
        "except qstore.QStoreWarning as warning:\n"
        "    print('raised', warning)\n"
    )
    other = write_folder(tmp_path / "other", llm_int8(model(98, [(256, 128), (128, 384)])), {}, None)
    line = [
        sys.executable,
        "-W",
        "error::UserWarning",
        "-c",
        program,
        str(folders["bf16"]),
        str(other),
        str(tmp_path / "store"),
    ]
    ran = subprocess.run(line, check=False, capture_output=True, text=True)
    assert ran.stdout.startswith("raised"), ran.stderr
    # It came before the end.
    assert not (tmp_path / "store").exists()


INTERRUPTED = """
import signal, sys, threading
import qstore

# What runs in the background may have been started with signals ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
told = []

def callback(stage, done, total):
    if not told:
        print("told", flush=True)
    told.append(done)

name, *arguments = sys.argv[1:]
try:
    if name == "pack":
        qstore.pack({"zeros": arguments[0]}, arguments[1], threads=1, progress=callback)
    elif name == "pack without progress":
        threading.Timer(0.2, lambda: print("told", flush=True)).start()
        qstore.pack({"zeros": arguments[0]}, arguments[1], threads=1)
except KeyboardInterrupt:
    print("interrupted", *(["before the end"] if not told or told[-1] < 1 << 32 else []), flush=True)
    raise
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", ["pack", "pack without progress"])
def test_interrupt(tmp_path: Path, how: str) -> None:
    """Ctrl-C while a model of four gigabytes is being packed, which takes longer than a signal takes."""
    folder = write_zeros(tmp_path / "model", 16, 1 << 28)
    line = [sys.executable, "-c", INTERRUPTED, how, str(folder), str(tmp_path / "store")]
    child = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "told\n", child.communicate()
    child.send_signal(signal.SIGINT)
    said, complained = child.communicate(timeout=300)
    assert said == "interrupted before the end\n", complained
    assert "KeyboardInterrupt" in complained
    # As of any program in Python that Ctrl-C ends.
    assert child.returncode == -signal.SIGINT
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_bar_is_drawn(zeros_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qstore.verify(zeros_store, progress=True)
    drawn = capsys.readouterr()
    assert drawn.out == ""
    assert "verifying zeros" in drawn.err
    assert "100%" in drawn.err
    assert drawn.err.endswith("\n")


def test_a_bar_takes_what_tqdm_takes(zeros_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = qstore.Bar(leave=False, ascii="-#", ncols=60)
    for _ in range(2):
        qstore.verify(zeros_store, progress=bar)
    drawn = capsys.readouterr().err
    assert "verifying zeros" in drawn
    assert "#" in drawn
    assert not drawn.endswith("\n")


def test_a_bar_for_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    bar = qstore.Bar(mininterval=0)
    for stage, total in (("one", 10), ("two", 0), ("three", 5), ("three", 5)):
        for done in sorted({0, total // 2, total}):
            bar(stage, done, total)
    bar.close()
    bar.close()
    drawn = capsys.readouterr().err
    ends = [line.split("\r")[-1] for line in drawn.split("\n") if line]
    assert [end.partition(":")[0] for end in ends] == ["one", "two", "three", "three"]
    assert all("100%" in end for end in ends if not end.startswith("two"))


def test_a_bar_is_closed_when_an_operation_fails(tmp_path: Path) -> None:
    class Closing(qstore.Bar):
        closed = 0

        def close(self) -> None:
            super().close()
            self.closed += 1

    bar = Closing()
    with pytest.raises(qstore.NotFoundError):
        qstore.verify(tmp_path / "none", progress=bar)
    assert bar.closed == 1
