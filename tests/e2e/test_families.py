"""Every family's whole model is stored once and comes back byte for byte.

The published implementation matched layer names by pattern and silently left out what it did not recognise: 25 of 37
matrices of a BERT. So the tests ask how *each* matrix is stored, not only whether the folders come back.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .checkpoints import (
    VARIANT_NAMES,
    MakePair,
    MakeStore,
    Tensor,
    assert_same_files,
    quantize,
    quantized_matrices,
    read_tensors,
    weights_in,
)
from .cli import QStore, tensors_of
from .models import BERT, BERT_MASKED_LM, GPT2, LLAMA, PAPER_FAMILIES, Family
from .report import Report

#: GPT-2 keeps its layers as [in, out]; bitsandbytes saves their codes as [out, in].
ALL = [
    *((family, torch.bfloat16) for family in PAPER_FAMILIES),
    (LLAMA, torch.float16),
    (BERT, torch.bfloat16),
    (GPT2, torch.bfloat16),
]


def _id(case: tuple[Family, torch.dtype]) -> str:
    return f"{case[0].name}-{VARIANT_NAMES[case[1]]}"


@pytest.mark.parametrize("case", ALL, ids=_id)
def test_both_folders_come_back(
    case: tuple[Family, torch.dtype],
    qstore: QStore,
    make_pair: MakePair,
    make_store: MakeStore,
    report: Report,
    tmp_path: Path,
) -> None:
    pair, store, name = make_pair(*case), make_store(*case), VARIANT_NAMES[case[1]]

    assert_same_files(qstore.unpack(store, name, tmp_path / name), pair.high)
    assert_same_files(qstore.unpack(store, "int8", tmp_path / "int8"), pair.low)
    qstore.run("verify", store)

    inspected = qstore.inspect(store)
    assert inspected["raw_bytes"] == pair.raw_bytes
    assert inspected["stored_bytes"] == sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    report.add(case[0].name, name, weights_in(read_tensors(pair.high)), inspected)


@pytest.mark.parametrize("case", ALL, ids=_id)
def test_no_quantised_matrix_is_stored_twice(
    case: tuple[Family, torch.dtype], qstore: QStore, make_pair: MakePair, make_store: MakeStore
) -> None:
    stored = tensors_of(qstore.inspect(make_store(*case)), VARIANT_NAMES[case[1]])

    matrices = quantized_matrices(read_tensors(make_pair(*case).low))
    assert matrices, "bitsandbytes quantised nothing"
    assert matrices <= stored.keys()
    assert {name: _encoding(stored[name]) for name in matrices} == dict.fromkeys(matrices, ("residual", "int8"))


@pytest.mark.parametrize("case", ALL, ids=_id)
def test_equal_tensors_are_stored_once(
    case: tuple[Family, torch.dtype], qstore: QStore, make_pair: MakePair, make_store: MakeStore
) -> None:
    high, low = read_tensors(make_pair(*case).high), read_tensors(make_pair(*case).low)
    stored = tensors_of(qstore.inspect(make_store(*case)), VARIANT_NAMES[case[1]])

    # A reference takes as much as the smallest do.
    shared = {name for name in _shared(high, low) if int(stored[name]["raw_bytes"]) >= 64}
    assert shared, "the quantised folder kept no tensor as it was"
    assert {name: _encoding(stored[name]) for name in shared} == dict.fromkeys(shared, ("reference", "int8"))


def test_class_prefix_does_not_hide_matrices(qstore: QStore, tmp_path: Path) -> None:
    """A hub's BERT names its layers `bert.encoder...`; quantised as a bare encoder they are `encoder...`."""
    high, low = tmp_path / "bf16", tmp_path / "int8"
    BERT_MASKED_LM.build(torch.bfloat16).save_pretrained(high)
    quantize(high, BERT.model_class, low)
    store = qstore.pack(tmp_path / "store", bf16=high, int8=low)

    stored = tensors_of(qstore.inspect(store), "bf16")
    matrices = {f"bert.{name}" for name in quantized_matrices(read_tensors(low))} & stored.keys()
    assert len(matrices) == 12
    assert {name: _encoding(stored[name]) for name in matrices} == dict.fromkeys(matrices, ("residual", "int8"))
    assert_same_files(qstore.unpack(store, "bf16", tmp_path / "restored"), high)


def _shared(high: dict[str, Tensor], low: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in high.items() if low.get(name) == tensor}


def _encoding(tensor: dict[str, str]) -> tuple[str, str]:
    return tensor["encoding"], tensor["given"]
