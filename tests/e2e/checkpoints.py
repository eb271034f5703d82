"""Checkpoint folders: made by transformers and bitsandbytes, read back without either.

The readers here parse safetensors headers themselves. A test that compares bytes must not see them through a library
that may cast, reorder or share.
"""

from __future__ import annotations

import filecmp
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from .models import Family

#: The variant names that these tests give to the folders of each dtype.
VARIANT_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}

#: What is fed to a model when two copies of it are compared; every family's vocabulary is larger.
INPUT_IDS = torch.arange(2, 50).unsqueeze(0)


@dataclass(frozen=True)
class Pair:
    """One model as its producers wrote it twice: 16 or 32 bit floats in `high`, LLM.int8 in `low`."""

    high: Path
    low: Path

    @property
    def raw_bytes(self) -> int:
        """What the two folders take side by side."""
        return folder_bytes(self.high) + folder_bytes(self.low)


#: Makes a family's pair in one dtype, and packs it; each once per run.
MakePair = Callable[[Family, torch.dtype], Pair]
MakeStore = Callable[[Family, torch.dtype], Path]


@dataclass(frozen=True)
class Tensor:
    """One tensor as it lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def quantize(source: Path, model_class: type[PreTrainedModel], target: Path, **save: Any) -> None:
    """Writes what bitsandbytes makes of the folder `source`, as a user would: load in 8 bits, save."""
    config = BitsAndBytesConfig(load_in_8bit=True)
    model = model_class.from_pretrained(source, quantization_config=config, device_map="cpu")
    model.save_pretrained(target, **save)


def logits(folder: Path, model_class: type[PreTrainedModel]) -> torch.Tensor:
    """The first output of the model that `folder` holds: logits, or an encoder's hidden states."""
    model = model_class.from_pretrained(folder, device_map="cpu").eval()
    with torch.inference_mode():
        return model(input_ids=INPUT_IDS)[0]


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of every safetensors file directly in `folder`, by name."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        blob = path.read_bytes()
        start = 8 + int.from_bytes(blob[:8], "little")
        header = json.loads(blob[8:start])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            assert name not in tensors, f"{name} is in two files of {folder}"
            tensors[name] = Tensor(entry["dtype"], tuple(entry["shape"]), blob[start + begin : start + end])
    assert tensors, f"no tensors in {folder}"
    return tensors


def quantized_matrices(tensors: dict[str, Tensor]) -> set[str]:
    """Names of the weights that LLM.int8 quantised: those beside a row-scale tensor."""
    return {name.removesuffix("SCB") + "weight" for name in tensors if name.endswith(".SCB")}


def weights_in(tensors: dict[str, Tensor]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def files_below(folder: Path) -> list[Path]:
    """Relative paths of all files below `folder`, links followed, sorted."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def folder_bytes(folder: Path) -> int:
    return sum((folder / path).stat().st_size for path in files_below(folder))


def assert_same_files(actual: Path, expected: Path) -> None:
    """Both folders hold the same files with the same bytes, and `actual` holds them as regular files."""
    assert files_below(actual) == files_below(expected)
    for path in files_below(expected):
        assert not (actual / path).is_symlink(), f"{path} is a link"
        assert filecmp.cmp(actual / path, expected / path, shallow=False), f"{path} differs"
