"""A thousand opens leave nothing behind: no memory, no open file. Nor do a thousand mistakes.

In a process of its own, whose memory is that of nothing else. The tensor that is read has a megabyte, so one that stays
would show a thousandfold.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qstore
from checkpoints import write_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEBIBYTE = 1 << 20

PROGRAM = """
import gc, os, sys
import qstore

store, damaged, framework, what = sys.argv[1:]

def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def files():
    return len(os.listdir("/proc/self/fd"))

def read():
    with qstore.open(store, framework=framework) as opened:
        variant = opened["only"]
        assert variant.get_tensor("large").nbytes == 1 << 20
        assert variant.get_slice("large")[3:900:2].nbytes
        assert variant.get_slice("large")[...].nbytes == 1 << 20

def read_all():
    assert qstore.safe_open(store, framework, variant="only", threads=1).get_tensors()["large"].nbytes == 1 << 20

def read_files():
    # Nobody closes it.
    variant = qstore.safe_open(store, framework)
    assert len(variant.read_file("model.safetensors")) > 1 << 20
    assert variant.metadata() is None and variant.files()
    qstore.inspect(store, tensors=True)

def fails(call, error):
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error}")

def fail():
    fails(lambda: qstore.open(store + ".none"), FileNotFoundError)
    with qstore.open(store, framework=framework) as opened:
        fails(lambda: opened["none"], KeyError)
        fails(lambda: opened["only"].get_tensor("none"), KeyError)
        fails(lambda: opened["only"].get_slice("large")[10**9], IndexError)
        fails(lambda: opened["only"].get_slice("large")[0, 0, 0], IndexError)
    fails(lambda: opened["only"], qstore.UsageError)
    variant = qstore.safe_open(damaged, framework)
    fails(lambda: variant.get_tensor("large"), qstore.DamagedError)
    fails(variant.get_tensors, qstore.DamagedError)
    fails(lambda: qstore.verify(damaged), qstore.DamagedError)
    fails(lambda: qstore.pack({"only": store}, store), qstore.UsageError)

def stop():
    def callback(*_):
        raise RuntimeError
    fails(lambda: qstore.verify(store, progress=callback), RuntimeError)
    fails(lambda: qstore.safe_open(store, framework).get_tensors(progress=callback), RuntimeError)

def measure(times):
    for _ in range(times):
        globals()[what]()
    gc.collect()
    return memory(), files()

before = measure(100)
after = measure(1000)
print(after[0] - before[0], after[1] - before[1])
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One with a tensor of a megabyte, and one in which that is damaged."""
    root = tmp_path_factory.mktemp("leaks")
    large = np.random.default_rng(1).integers(0, 256, (1024, 1024), np.uint8)
    write_folder(root / "model", {"large": large, "small": np.arange(4)}, {}, None)
    for name in ("whole", "damaged"):
        qstore.pack({"only": root / "model"}, root / name)
    (shard,) = (root / "damaged").glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    return root / "whole", root / "damaged"


@pytest.mark.parametrize("what", ["read", "read_all", "read_files", "fail", "stop"])
def test_nothing_is_left(stores: tuple[Path, Path], framework: str, what: str) -> None:
    line = [sys.executable, "-c", PROGRAM, *map(str, stores), framework, what]
    ran = subprocess.run(line, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    memory, files = map(int, ran.stdout.split())
    assert memory < 48 * MEBIBYTE, f"{memory / MEBIBYTE:.0f} MiB more"
    assert files <= 0, f"{files} more files"
