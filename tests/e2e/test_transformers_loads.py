"""What was restored is a checkpoint: transformers loads it and computes what the original computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .checkpoints import MakePair, MakeStore, logits
from .cli import QStore
from .models import PAPER_FAMILIES, Family


@pytest.mark.parametrize("family", PAPER_FAMILIES, ids=lambda family: family.name)
def test_restored_variants_compute_the_same(
    family: Family, qstore: QStore, make_pair: MakePair, make_store: MakeStore, tmp_path: Path
) -> None:
    pair, store = make_pair(family, torch.bfloat16), make_store(family, torch.bfloat16)
    for name, original in (("bf16", pair.high), ("int8", pair.low)):
        restored = qstore.unpack(store, name, tmp_path / name)
        assert torch.equal(logits(restored, family.model_class), logits(original, family.model_class))
