"""Model folders for the tests, made without qstore: safetensors files written by hand, LLM.int8() from its
definition."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Array = npt.NDArray[Any]
Tensors = dict[str, Array]

#: What safetensors calls the types that these models have.
NAMES = {"bfloat16": "BF16", "float32": "F32", "int8": "I8", "int32": "I32", "uint8": "U8", "float16": "F16"}


@dataclass(frozen=True)
class Raw:
    """A tensor as it lies in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def write_safetensors(path: Path, tensors: Mapping[str, Raw], metadata: Mapping[str, str] | None = None) -> None:
    """A file of any types, its tensors in the order given."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(tensor.data for tensor in tensors.values())


def write_zeros(folder: Path, files: int, bytes_each: int) -> Path:
    """A model of zeros, which takes next to no room on a disk and yet time to read."""
    folder.mkdir(parents=True)
    for number in range(files):
        path = folder / f"model-{number}.safetensors"
        shape, span = [bytes_each // 1024, 1024], [0, bytes_each]
        header = json.dumps({f"zeros.{number}": {"dtype": "U8", "shape": shape, "data_offsets": span}}).encode()
        header += b" " * (-len(header) % 8)
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + bytes_each)
    return folder


def write_folder(folder: Path, tensors: Tensors, config: Mapping[str, Any], metadata: dict[str, str] | None) -> Path:
    """A folder as transformers would save it."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "nested").mkdir()
    (folder / "nested" / "größe.txt").write_text("in a folder of its own\n", encoding="utf-8")
    (folder / "empty").mkdir()
    return folder


def weights(rng: np.random.Generator, shape: Sequence[int], scale: float = 0.02) -> Array:
    return np.asarray(rng.standard_normal(shape, np.float32) * np.float32(scale), ml_dtypes.bfloat16)


def model(seed: int, shapes: Sequence[tuple[int, int]]) -> Tensors:
    """A BF16 model: a matrix of each shape, an embedding, and small things beside them."""
    rng = np.random.default_rng(seed)
    tensors = {
        "model.embed_tokens.weight": weights(rng, (90, 64)),
        "model.norm.weight": 1 + weights(rng, (64,), 0.1),
        "model.temperature": weights(rng, (), 1),
        "model.positions": np.arange(24, dtype=np.int32).reshape(2, 3, 4),
        "model.none": np.zeros((3, 0, 2), np.float32),
    }
    for number, shape in enumerate(shapes):
        tensors[f"model.layers.{number}.mlp.up_proj.weight"] = weights(rng, shape)
        tensors[f"model.layers.{number}.norm.weight"] = 1 + weights(rng, shape[1:], 0.1)
    return tensors


def quantize(matrix: Array) -> tuple[Array, Array]:
    """Codes and row scales, as LLM.int8() defines them."""
    half = matrix.astype(np.float32).astype(np.float16).astype(np.float32)
    scale = np.abs(half).max(axis=1)
    half *= (np.float32(1) / scale * np.float32(127))[:, None]
    return np.rint(half, out=half).astype(np.int8), scale


def llm_int8(tensors: Tensors) -> Tensors:
    """The twin that bitsandbytes makes: each `*_proj.weight` becomes codes and scales."""
    twin: Tensors = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        if stem.endswith("_proj"):
            twin[name], twin[f"{stem}.SCB"] = quantize(tensor)
            twin[f"{stem}.weight_format"] = np.zeros((), np.uint8)
        else:
            twin[name] = tensor
    return twin


def write_pair(root: Path, tensors: Tensors) -> dict[str, Path]:
    """The folders of a BF16 model and of its LLM.int8() twin."""
    quantised = {"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes"}}
    plain = {"model_type": "llama"}
    return {
        "bf16": write_folder(root / "bf16", tensors, plain, {"format": "pt"}),
        "int8": write_folder(root / "int8", llm_int8(tensors), quantised, {"format": "pt", "made": "by hand"}),
    }


def read_safetensors(path: Path) -> dict[str, Raw]:
    """The tensors of a file, in the order of their bytes."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0])):
        first, end = entry["data_offsets"]
        found[name] = Raw(entry["dtype"], tuple(entry["shape"]), data[start + first : start + end])
        assert math.prod(entry["shape"]) or not found[name].data
    return found


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, and every folder with `None`."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }
