"""The Python of README.md and docs/python.md runs as it stands, on a small model under the names that it uses."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from mktestdocs import grab_code_blocks

from .checkpoints import quantize
from .cli import QStore
from .models import LLAMA

ROOT = Path(__file__).parents[2]


def blocks(page: Path) -> list[str]:
    found = grab_code_blocks(page.read_text(encoding="utf-8"), lang="python")
    return [str(block) for block in found]


def run(block: str, names: dict[str, Any]) -> None:
    exec(block, names)  # noqa: S102  which is what is tested


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, where the program runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_model(folder: Path) -> None:
    """A random Llama in BF16, whose tokenizer takes each byte for a token."""
    LLAMA.build(torch.bfloat16).save_pretrained(folder)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({text: i for i, text in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def test_readme(folder: Path, qstore: QStore) -> None:
    write_model(folder / "Qwen2.5-7B")
    make_int8, use = blocks(ROOT / "README.md")
    names: dict[str, Any] = {}
    run(make_int8, names)
    pack = next(
        line
        for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("qstore pack bf16=") and "int8=" in line
    )
    subprocess.run([os.environ["QSTORE_BIN"], *shlex.split(pack)[1:]], check=True)
    run(use, names)
    assert names["rows"].shape[0] == 100
    assert names["weights"]["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert names["model"].config.quantization_config.load_in_8bit


def test_python_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(folder / "llama")
    quantize(folder / "llama", LLAMA.model_class, folder / "llama-int8")
    transformers.AutoTokenizer.from_pretrained(folder / "llama").save_pretrained(folder / "llama-int8")
    names: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "python.md"):
        run(block, names)
    assert names["model"].config.quantization_config.load_in_8bit
    printed = capsys.readouterr().out
    # What the page says that the last block prints.
    assert "llama.qstor: no store here (no qstore.json)\n" in printed
    assert "llama.qstore: no variant int4; it has int8, bf16\n" in printed
