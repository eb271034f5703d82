"""The package as a program, and what importing it costs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

import qstore
import qstore.__main__
from checkpoints import tree, write_zeros

Command = Callable[..., subprocess.CompletedProcess[str]]


def python(program: str, *arguments: object) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


HEAVY = "sorted({'numpy', 'ml_dtypes', 'torch', 'tqdm', 'transformers', 'safetensors'} & sys.modules.keys())"


def test_import_loads_nothing_heavy() -> None:
    assert python(f"import sys, qstore, qstore.__main__; print({HEAVY})") == "[]\n"
    assert python(f"import sys, qstore.numpy, qstore.torch, qstore.transformers; print({HEAVY})") == "[]\n"


def test_opening_loads_nothing_heavy(store: Path) -> None:
    program = (
        "import sys, qstore\n"
        "with qstore.open(sys.argv[1]) as store:\n"
        "    print(store['bf16'].get_slice(store['bf16'].keys()[0]).get_shape())\n"
        "qstore.inspect(sys.argv[1]), qstore.verify(sys.argv[1])\n"
        f"print({HEAVY})"
    )
    assert python(program, store).splitlines()[1:] == ["[]"]


def test_numpy_loads_no_torch(store: Path) -> None:
    program = (
        "import sys, qstore.numpy; qstore.numpy.load_file(sys.argv[1], variant='bf16'); print('torch' in sys.modules)"
    )
    assert python(program, store) == "False\n"


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", qstore.__version__)


def test_all_names_are_there() -> None:
    assert qstore.__all__ == sorted(qstore.__all__, key=lambda name: (not name[0].isupper(), name))
    assert all(getattr(qstore, name) is not None for name in qstore.__all__)


def test_the_command_of_the_package_is_its_version(qstore_command: Command) -> None:
    ran = qstore_command("--version")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"qstore {qstore.__version__}\n", "")


def test_inspect_as_json(qstore_command: Command, store: Path) -> None:
    ran = qstore_command("inspect", store, "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    found = json.loads(ran.stdout)
    inspected = qstore.inspect(store)
    assert [variant["name"] for variant in found["variants"]] == [variant.name for variant in inspected.variants]
    assert found["stored_bytes"] == inspected.stored_bytes


def test_main(store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """What the script `qstore` calls."""
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "argv", ["/anywhere/qstore", "inspect", str(store), "--json"])
    try:
        with pytest.raises(SystemExit) as ended:
            qstore.__main__.main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 0
    assert json.loads(capfd.readouterr().out)["format_version"] == 1


def test_the_script_calls_main() -> None:
    try:
        scripts = metadata.distribution("qstore").entry_points
    except metadata.PackageNotFoundError:
        pytest.skip("the package runs from its folder, without a script")
    (script,) = (point for point in scripts if point.group == "console_scripts")
    assert (script.name, script.load()) == ("qstore", qstore.__main__.main)


def test_round_trip(qstore_command: Command, folders: dict[str, Path], tmp_path: Path) -> None:
    named = [f"{name}={folder}" for name, folder in folders.items()]
    assert qstore_command("pack", *named, "-o", tmp_path / "store").returncode == 0
    for name, folder in folders.items():
        assert qstore_command("unpack", tmp_path / "store", name, "-o", tmp_path / name).returncode == 0
        assert tree(tmp_path / name) == tree(folder)


def test_exit_statuses(qstore_command: Command, store: Path, tmp_path: Path) -> None:
    assert qstore_command("verify", store).returncode == 0
    (tmp_path / "empty").mkdir()
    refused = qstore_command("pack", f"bf16={tmp_path / 'empty'}", "-o", tmp_path / "store")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "empty" in refused.stderr
    missing = qstore_command("inspect", tmp_path / "none")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "none" in missing.stderr
    for line in ([], ["no-such-command"], ["inspect"], ["inspect", store, "--no-such-option"]):
        assert qstore_command(*line).returncode == 2, line
    assert qstore_command("--help").returncode == 0


def test_damage_is_an_exit_status(qstore_command: Command, folders: dict[str, Path], tmp_path: Path) -> None:
    qstore.pack({"int8": folders["int8"]}, tmp_path / "store")
    (shard,) = (tmp_path / "store").glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    ran = qstore_command("verify", tmp_path / "store")
    assert ran.returncode == 1
    assert shard.name in ran.stdout + ran.stderr


def test_bench_starts_itself(qstore_command: Command, folders: dict[str, Path], tmp_path: Path) -> None:
    """Each load is measured in a process of its own, which is this Python again, with this package."""
    line = ["bench", f"int8={folders['int8']}", "--peers", "none,ours", "--repeats", "1", "--cache", "warm", "--json"]
    ran = qstore_command(*line, "--dir", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_interrupt(tmp_path: Path, signal_: signal.Signals) -> None:
    """Ctrl-C, and a request to terminate, leave nothing behind: neither of a store nor of a folder that is restored."""
    folder = write_zeros(tmp_path / "model", 16, 1 << 28)
    store = tmp_path / "store"
    for line, begun in (
        (["pack", f"zeros={folder}", "-o", str(store)], "store/.qstore-staging"),
        (["unpack", str(store), "zeros", "-o", str(tmp_path / "restored")], ".restored.qstore-*"),
    ):
        if line[0] == "unpack":
            qstore.pack({"zeros": folder}, store)
        before = sorted(path.name for path in tmp_path.iterdir())
        child = subprocess.Popen(
            [sys.executable, "-m", "qstore", "--threads", "1", *line], stderr=subprocess.PIPE, text=True
        )
        while not list(tmp_path.glob(begun)) and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal_)
        _, complained = child.communicate(timeout=300)
        assert complained == "error: interrupted; everything is as it was before\n"
        assert child.returncode == 130
        assert sorted(path.name for path in tmp_path.iterdir()) == before
