"""Stores and variants may be used from several threads, and whoever decodes lets other threads of Python run."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from arrays import raw
from checkpoints import Raw

READERS = 8
ROUNDS = 12

Originals = dict[str, dict[str, Raw]]


def at_once(read: Callable[[np.random.Generator], None]) -> None:
    """Runs it on eight threads, which start together, each with numbers of its own."""
    barrier = threading.Barrier(READERS)

    def run(seed: int) -> None:
        barrier.wait()
        rng = np.random.default_rng(seed)
        for _ in range(ROUNDS):
            read(rng)

    with ThreadPoolExecutor(READERS) as pool:
        for reader in [pool.submit(run, seed) for seed in range(READERS)]:
            reader.result()


def read_something(variant: qstore.Variant, tensors: dict[str, Raw], rng: np.random.Generator) -> None:
    """A tensor, rows of one, all tensors, or a file, and compares it."""
    name = list(tensors)[rng.integers(len(tensors))]
    tensor = tensors[name]
    match rng.integers(8):
        case 0:
            loaded = variant.get_tensors()
            assert {name: raw(array) for name, array in loaded.items()} == {n: t.data for n, t in tensors.items()}
        case 1:
            assert variant.read_file("nested/größe.txt" if variant.name != "gptq4" else "config.json")
        case 2 | 3 | 4 if tensor.shape:
            start, stop = sorted(int(row) for row in rng.integers(0, tensor.shape[0] + 1, 2))
            row = len(tensor.data) // max(tensor.shape[0], 1)
            assert raw(variant.get_slice(name)[start:stop]) == tensor.data[start * row : stop * row]
        case _:
            assert raw(variant.get_tensor(name)) == tensor.data


@pytest.mark.parametrize("name", ["bf16", "int8", "gptq4"])
def test_eight_readers_of_a_variant(store: Path, originals: Originals, framework: str, name: str) -> None:
    with qstore.safe_open(store, framework, variant=name) as variant:
        at_once(lambda rng: read_something(variant, originals[name], rng))


def test_eight_readers_of_a_store(store: Path, originals: Originals, framework: str) -> None:
    """Each asks it for the variants by itself."""
    found: set[int] = set()

    with qstore.open(store, framework=framework) as opened:

        def read(rng: np.random.Generator) -> None:
            variant = opened[opened.variants[rng.integers(3)]]
            found.add(id(variant))
            read_something(variant, originals[variant.name], rng)

        at_once(read)
        assert found == {id(opened[name]) for name in opened.variants}


def test_eight_readers_of_a_slice(store: Path, originals: Originals) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    expected = np.frombuffer(originals["bf16"][name].data, np.uint16).reshape(originals["bf16"][name].shape)
    slice_ = qstore.safe_open(store, "np", variant="bf16").get_slice(name)

    def read(rng: np.random.Generator) -> None:
        row = int(rng.integers(len(expected)))
        assert raw(slice_[row]) == expected[row].tobytes()

    at_once(read)


def test_closing_under_readers(store: Path, originals: Originals) -> None:
    """Whoever comes after gets an error; whoever reads gets what is there."""
    for _ in range(20):
        opened = qstore.open(store)
        variant = opened["bf16"]

        def read(variant: qstore.Variant = variant) -> bool:
            try:
                read_something(variant, originals["bf16"], np.random.default_rng())
            except qstore.UsageError as error:
                assert "closed" in str(error)
                return False
            return True

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(6)]
            opened.close()
            assert all(isinstance(reader.result(), bool) for reader in readers)
        assert read() is False


def test_closing_while_variants_are_opened(store: Path) -> None:
    """Whoever gets a variant late gets none, or a closed one; nothing stays open."""
    for _ in range(200):
        opened = qstore.open(store)
        barrier = threading.Barrier(3)

        def ask(
            name: str, opened: qstore.Store = opened, barrier: threading.Barrier = barrier
        ) -> qstore.Variant | None:
            barrier.wait()
            try:
                return opened[name]
            except qstore.UsageError as error:
                assert "closed" in str(error)
                return None

        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(ask, name) for name in ("int8", "bf16")]
            barrier.wait()
            opened.close()
            variants = [one.result() for one in asked]
        for variant in variants:
            if variant is not None:
                with pytest.raises(qstore.UsageError, match="closed"):
                    variant.get_tensor(variant.keys()[0])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
def test_a_fork_reads_what_its_parent_opened(store: Path, originals: Originals) -> None:
    """Loaders of data fork. Threads are not there afterwards, so nothing may wait for one that was."""

    def read() -> None:
        loaded = {name: raw(array) for name, array in variant.get_tensors().items()}
        assert loaded == {name: tensor.data for name, tensor in originals["bf16"].items()}

    # Not with torch, which itself waits for threads that it had.
    with qstore.safe_open(store, "np", variant="bf16") as variant:
        read()
        child = multiprocessing.get_context("fork").Process(target=read)
        child.start()
        child.join(60)
        if child.exitcode is None:
            child.kill()
        assert child.exitcode == 0


@contextmanager
def counting() -> Iterator[list[int]]:
    """A number that another thread counts up, but only where this one lets it run: Python does not interrupt."""
    count, stop = [0], threading.Event()

    def run() -> None:
        while not stop.is_set():
            count[0] += 1
            # Lets go of Python's lock, which it would not be asked for.
            time.sleep(0)

    interval = sys.getswitchinterval()
    counter = threading.Thread(target=run)
    counter.start()
    try:
        sys.setswitchinterval(1000)
        # Lets it run, so that from now on it waits for as long as that.
        time.sleep(0.01)
        yield count
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        counter.join()


DECODES: dict[str, Callable[[qstore.Variant], Any]] = {
    "a tensor": lambda variant: variant.get_tensor("zeros.0"),
    "rows": lambda variant: variant.get_slice("zeros.0")[1:],
    "all tensors": lambda variant: variant.get_tensors(),
    "a file": lambda variant: variant.read_file("model-0.safetensors"),
}


@pytest.mark.parametrize("what", DECODES)
def test_other_threads_run_meanwhile(zeros_store: Path, what: str) -> None:
    decode = DECODES[what]
    with qstore.safe_open(zeros_store, "np") as variant, counting() as count:
        for _ in range(100):
            before = count[0]
            kept = decode(variant)
            during = count[0] - before
            del kept
            if during >= 3:
                return
    pytest.fail("another thread never ran while this one decoded")


def test_counting_counts_nothing_of_itself() -> None:
    """Else the test above would say nothing."""
    with counting() as count:
        before = count[0]
        sum(range(1_000_000))
        assert count[0] == before
