"""`qstore quantize` writes what bitsandbytes would have written.

A user without Python gets the INT8 variant that everybody else has, so that codes, scales, names and which layers are
left alone must all agree; transformers is the judge of whether the folder loads.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from .checkpoints import VARIANT_NAMES, MakePair, logits, quantize, quantized_matrices, read_tensors
from .cli import QStore
from .models import BERT, LLAMA, PAPER_FAMILIES, Family

FAMILIES = (*PAPER_FAMILIES, BERT)


def _quantization_config(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]


@pytest.mark.parametrize("dtype", VARIANT_NAMES, ids=VARIANT_NAMES.get)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_equals_bitsandbytes(
    family: Family, dtype: torch.dtype, qstore: QStore, make_pair: MakePair, tmp_path: Path
) -> None:
    pair = make_pair(family, dtype)
    ours = tmp_path / "int8"
    qstore.run("quantize", pair.high, "--to", "int8", "-o", ours)

    expected, actual = read_tensors(pair.low), read_tensors(ours)
    assert quantized_matrices(actual) == quantized_matrices(expected)
    assert actual.keys() == expected.keys()
    assert [name for name in expected if actual[name] != expected[name]] == []
    assert _quantization_config(ours) == _quantization_config(pair.low)
    assert torch.equal(logits(ours, family.model_class), logits(pair.low, family.model_class))


def _set_bits(row: torch.Tensor, bits: list[int]) -> None:
    """Repeats 16-bit patterns over a row of a BF16 or FP16 matrix."""
    pattern = torch.tensor(bits, dtype=torch.int32).to(torch.int16).view(row.dtype)
    row.copy_(pattern.repeat(row.numel() // len(bits) + 1)[: row.numel()])


def _edge_rows(matrix: torch.Tensor) -> None:
    """Overwrites the first rows of a matrix with what the arithmetic of LLM.int8 treats specially."""
    matrix[0] = 0.0
    matrix[1] = -0.0
    _set_bits(matrix[2], [0x0001, 0x8001, 0x007F])  # the format's own subnormals; BF16's are zero in FP16
    matrix[3] = torch.linspace(-6e-8, 6e-8, matrix.shape[1])  # around FP16's smallest subnormal
    matrix[4] = torch.linspace(-3e-5, 3e-5, matrix.shape[1])  # FP16 subnormals
    matrix[5] *= 1e-9
    matrix[5, 7] = 1.0  # one weight makes every other code zero
    matrix[6] = (torch.arange(matrix.shape[1]) % 255 - 127) / 254  # exact ties between two codes
    matrix[7] = 6.0 + 60000.0 * torch.rand(matrix.shape[1])  # near the top of FP16
    if matrix.dtype != torch.float16:
        matrix[8, 3] = 1e5  # above FP16's range: an infinite scale


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=VARIANT_NAMES.get)
def test_edge_rows_equal_bitsandbytes(dtype: torch.dtype, qstore: QStore, tmp_path: Path) -> None:
    model = LLAMA.build(dtype)
    with torch.no_grad():
        for layer in model.model.layers:
            _edge_rows(layer.mlp.up_proj.weight)
            _edge_rows(layer.self_attn.k_proj.weight)
    source, theirs, ours = (tmp_path / name for name in ("source", "theirs", "ours"))
    model.save_pretrained(source)
    quantize(source, LLAMA.model_class, theirs)
    qstore.run("quantize", source, "--to", "int8", "-o", ours)

    expected, actual = read_tensors(theirs), read_tensors(ours)
    assert [name for name in expected if actual[name] != expected[name]] == []

    store = qstore.pack(tmp_path / "store", high=source, int8=theirs)
    qstore.unpack(store, "high", tmp_path / "high")
    assert read_tensors(tmp_path / "high") == read_tensors(source)
