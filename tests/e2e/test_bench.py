"""`qstore bench` measures safetensors and ZipNN by their own packages, on folders as transformers wrote them."""

from __future__ import annotations

import json
import sys

import torch

from .checkpoints import MakePair
from .cli import QStore
from .models import LLAMA


def test_python_peers_give_back_every_byte(qstore: QStore, make_pair: MakePair) -> None:
    pair = make_pair(LLAMA, torch.bfloat16)
    options = ["--peers", "none,safetensors,zipnn,ours,ours-python", "--repeats", "1", "--cache", "warm", "--json"]
    folders = [f"bf16={pair.high}", f"int8={pair.low}"]
    report = json.loads(qstore.run("bench", *folders, *options, "--python", sys.executable))
    assert report["absent"] == []
    none, safetensors, zipnn, ours, python = (peer["stored_bytes"] for peer in report["peers"])
    assert ours == python < zipnn < none
    assert abs(safetensors - none) < none / 1000
    assert "torch" in report["peers"][1]["version"]
