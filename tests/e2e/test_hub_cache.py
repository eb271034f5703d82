"""A model hub's cache keeps a snapshot as links into a folder of blobs; users pass that snapshot to every tool."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from .checkpoints import MakePair, assert_same_files, files_below
from .cli import QStore
from .models import LLAMA


def _as_cache(folder: Path, cache: Path) -> Path:
    """Lays `folder` out as a hub cache does and returns the snapshot, which holds only links."""
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    blobs.mkdir(parents=True)
    for path in files_below(folder):
        content = (folder / path).read_bytes()
        blob = hashlib.sha256(content).hexdigest()
        (blobs / blob).write_bytes(content)
        link = snapshot / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (len(path.parts) + 1), "blobs", blob))
    return snapshot


def test_links_come_back_as_files(qstore: QStore, make_pair: MakePair, tmp_path: Path) -> None:
    pair = make_pair(LLAMA, torch.bfloat16)
    high = _as_cache(pair.high, tmp_path / "models--example--bf16")
    low = _as_cache(pair.low, tmp_path / "models--example--int8")
    assert all((high / path).is_symlink() for path in files_below(high))

    store = qstore.pack(tmp_path / "store", bf16=high, int8=low)
    assert_same_files(qstore.unpack(store, "bf16", tmp_path / "bf16"), pair.high)
    assert_same_files(qstore.unpack(store, "int8", tmp_path / "int8"), pair.low)
