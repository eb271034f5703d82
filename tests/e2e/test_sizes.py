"""Sizes at a model's real width: an untied Llama of hidden size 2048, three layers deep.

Small models are mostly embeddings and headers; here the matrices are as large as in models that people keep.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from .checkpoints import Pair, assert_same_files, quantize
from .cli import QStore
from .report import Report

#: Of both folders together.
MOST = 0.39
#: Of the 24 bits that a weight takes in both folders.
MOST_PAIRED = 0.442


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """1.1 GB in BF16 and LLM.int8."""
    root = tmp_path_factory.mktemp("wide")
    pair = Pair(high=root / "bf16", low=root / "int8")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=3,
        num_attention_heads=16,
        num_key_value_heads=16,
        tie_word_embeddings=False,
    )
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(pair.high)
    quantize(pair.high, transformers.LlamaForCausalLM, pair.low)
    return pair


def test_wide_matrices(wide: Pair, qstore: QStore, report: Report, tmp_path: Path) -> None:
    store = qstore.pack(tmp_path / "store", bf16=wide.high, int8=wide.low)
    weights = 3 * (4 * 2048 * 2048 + 3 * 2048 * 8192) + 2 * 32000 * 2048
    row = report.add("llama, hidden 2048, 3 layers", "bf16", weights, qstore.inspect(store))
    assert row.ratio <= MOST
    assert row.paired_bits <= MOST_PAIRED * 24
    assert_same_files(qstore.unpack(store, "bf16", tmp_path / "bf16"), wide.high)
    assert_same_files(qstore.unpack(store, "int8", tmp_path / "int8"), wide.low)
