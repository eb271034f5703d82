"""A user of INT8 downloads the manifest and the INT8 shards, and nothing else.

The promise is kept by construction or not at all, so the higher shards are deleted from a copy of the store: every
command on INT8 must still work, and every command that needs the higher variant must say so and fail.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from .checkpoints import MakePair, MakeStore, assert_same_files
from .cli import DAMAGED, QStore, variant_of
from .models import LLAMA


@pytest.fixture
def int8_only(qstore: QStore, make_store: MakeStore, tmp_path: Path) -> Path:
    """A copy of a BF16 + INT8 store without the BF16 shards."""
    store = tmp_path / "store"
    shutil.copytree(make_store(LLAMA, torch.bfloat16), store)
    stored_files = variant_of(qstore.inspect(store), "bf16")["stored_files"]
    assert stored_files
    for path in stored_files:
        (store / path).unlink()
    return store


def test_int8_reads_only_its_shards(qstore: QStore, make_store: MakeStore) -> None:
    store = make_store(LLAMA, torch.bfloat16)
    variant = variant_of(qstore.inspect(store), "int8")
    loaded = qstore.load(store, "int8")

    own = sum((store / path).stat().st_size for path in variant["stored_files"])
    manifest = (store / "qstore.json").stat().st_size
    assert variant["given"] == []
    assert variant["read_bytes"] <= own + manifest
    assert 0 < loaded["bytes_read"] <= own + manifest


def test_int8_needs_no_higher_variant(qstore: QStore, make_pair: MakePair, int8_only: Path, tmp_path: Path) -> None:
    assert qstore.load(int8_only, "int8")["variant"] == "int8"
    qstore.run("verify", int8_only, "int8")
    pair = make_pair(LLAMA, torch.bfloat16)
    assert_same_files(qstore.unpack(int8_only, "int8", tmp_path / "int8"), pair.low)


def test_missing_shards_is_an_error(qstore: QStore, int8_only: Path, tmp_path: Path) -> None:
    target = tmp_path / "bf16"
    qstore.run("unpack", int8_only, "bf16", "-o", target, status=DAMAGED)
    assert not target.exists() or not any(target.iterdir())
    qstore.run("load", int8_only, "bf16", status=DAMAGED)
    qstore.run("verify", int8_only, status=DAMAGED)
