"""`qstore quantize --to gptq4` and `gptq8` write what readers of GPTQ expect, and codes as near the weights as can be.

The layout below is that of a folder that gptqmodel 7.7 wrote for a Llama. Weights are taken from their codes by the
format's formula alone, with numpy.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

Floats = npt.NDArray[Any]

HIDDEN, INTERMEDIATE, KV, LAYERS, VOCAB = 512, 1536, 128, 2, 300

#: Output and input features of the linear layers of a block.
LINEAR = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
MODULES = {f"model.layers.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in LINEAR.items()}

#: `quantization_config` of gptqmodel 7.7, without `meta`, which tells of its calibration.
CONFIG = {
    "checkpoint_format": "gptq",
    "desc_act": False,
    "format": "gptq",
    "lm_head": False,
    "method": "gptq",
    "pack_dtype": "int32",
    "quant_method": "gptq",
}


def layout(bits: int, group_size: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        "model.embed_tokens.weight": ("BF16", (VOCAB, HIDDEN)),
        "model.norm.weight": ("BF16", (HIDDEN,)),
        "lm_head.weight": ("BF16", (VOCAB, HIDDEN)),
    }
    for layer in range(LAYERS):
        for norm in "input_layernorm", "post_attention_layernorm":
            tensors[f"model.layers.{layer}.{norm}.weight"] = ("BF16", (HIDDEN,))
    for module, (rows, cols) in MODULES.items():
        groups = 1 if group_size == -1 else cols // group_size
        tensors[f"{module}.qweight"] = ("I32", (cols * bits // 32, rows))
        tensors[f"{module}.qzeros"] = ("I32", (groups, rows * bits // 32))
        tensors[f"{module}.scales"] = ("F16", (groups, rows))
        tensors[f"{module}.g_idx"] = ("I32", (cols,))
    return tensors


def qstore(*arguments: str | Path) -> None:
    command = [os.environ["QSTORE_BIN"], *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}{done.stdout}"


def read(folder: Path) -> dict[str, Floats]:
    with safe_open(folder / "model.safetensors", framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def header(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    data = (folder / "model.safetensors").read_bytes()
    entries = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert entries.pop("__metadata__") == {"format": "pt"}
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}


def unpacked(words: Floats, bits: int) -> Floats:
    """The codes in words, along a new last axis."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return (words.view(np.uint32)[..., None] >> shifts & np.uint32(2**bits - 1)).astype(np.int64)


def dequantised(tensors: dict[str, Floats], module: str, bits: int) -> tuple[Floats, Floats, Floats]:
    """Weights, and the scale and zero-point of each: [out, in]."""
    qweight, qzeros, scales, groups = (tensors[f"{module}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx"))
    codes = unpacked(qweight.T, bits).reshape(qweight.shape[1], -1)
    zeros = (unpacked(qzeros, bits).reshape(scales.shape) + 1).T[:, groups]
    steps = scales.astype(np.float64).T[:, groups]
    return steps * (codes - zeros), steps, zeros


def steps_lost(scale: Floats, bits: int) -> Floats:
    """How many steps the codes of a group may span less than its weights, where its scale was rounded down to FP16."""
    return np.where(scale >= 2**-14, 2.0**-11, 0.0) * 2**bits + 1e-4


def assert_near(weights: Floats, back: Floats, scale: Floats, bits: int) -> None:
    """Each weight is within half a step; those at the ends of a group, within half a step of the end's code."""
    off = np.abs(weights - back) / scale
    assert (off <= 0.5 + steps_lost(scale, bits)).all()
    # Rounding of the scale concerns the ends alone.
    assert (off <= 0.5 + 1e-4).mean() > 0.98


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up Llama of `qstore demo`."""
    folder = tmp_path_factory.mktemp("gptq") / "demo"
    sizes = {"hidden": HIDDEN, "intermediate": INTERMEDIATE, "layers": LAYERS, "vocab": VOCAB}
    qstore("demo", "--keep", folder, *(str(word) for name, size in sizes.items() for word in (f"--{name}", size)))
    return folder / "model"


@pytest.mark.parametrize("options", [(), ("--asymmetric",)], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("group_size", [128, 32, -1])
@pytest.mark.parametrize("bits", [4, 8])
def test_layout_and_distance(model: Path, tmp_path: Path, bits: int, group_size: int, options: tuple[str, ...]) -> None:
    target = tmp_path / "gptq"
    if group_size != 128:
        options = (*options, "--group-size", str(group_size))
    qstore("quantize", model, "--to", f"gptq{bits}", *options, "-o", target)

    assert {path.name for path in target.iterdir()} == {
        *(path.name for path in model.iterdir()),
        "quantize_config.json",
    }
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    quantization = config.pop("quantization_config")
    assert config == json.loads((model / "config.json").read_text(encoding="utf-8"))
    assert quantization == json.loads((target / "quantize_config.json").read_text(encoding="utf-8"))
    symmetric = "--asymmetric" not in options
    expected = CONFIG | {"bits": bits, "group_size": group_size, "sym": symmetric}
    assert {key: value for key, value in quantization.items() if key != "meta"} == expected
    assert header(target) == layout(bits, group_size)

    before, after = read(model), read(target)
    for name in before.keys() - {f"{module}.weight" for module in MODULES}:
        assert np.array_equal(before[name], after[name]), name
    for module in MODULES:
        weights = before[f"{module}.weight"].astype(np.float64)
        size = weights.shape[1] if group_size == -1 else group_size
        assert np.array_equal(after[f"{module}.g_idx"], np.arange(weights.shape[1]) // size)
        back, scale, zero = dequantised(after, module, bits)
        assert_near(weights, back, scale, bits)

        least, most = (
            np.repeat(end(weights.reshape(len(weights), -1, size), axis=2), size, axis=1) for end in (np.min, np.max)
        )
        if symmetric:
            assert (zero == 2 ** (bits - 1)).all()
            expected_scale = 2 * np.maximum(most, -least) / (2**bits - 1)
        else:
            expected_scale = (np.maximum(most, 0) - np.minimum(least, 0)) / (2**bits - 1)
            assert (np.abs(zero + np.minimum(least, 0) / scale) <= 0.5 + steps_lost(scale, bits)).all()
        near = np.abs(scale - expected_scale) <= np.maximum(scale * 2**-11, 2**-24)
        assert near.all(), module


def test_a_store_keeps_it_with_the_original(model: Path, tmp_path: Path) -> None:
    qstore("quantize", model, "--to", "gptq4", "-o", tmp_path / "gptq4")
    qstore("pack", f"bf16={model}", f"gptq4={tmp_path / 'gptq4'}", "-o", tmp_path / "store")
    qstore("unpack", tmp_path / "store", "gptq4", "-o", tmp_path / "again")
    for path in (tmp_path / "gptq4").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_weights_that_are_unlike_others(model: Path, tmp_path: Path) -> None:
    """Rows of zeros, of one value, of one sign, and too small for FP16's normal scales."""
    source, name = tmp_path / "odd", "model.layers.0.self_attn.q_proj.weight"
    source.mkdir()
    tensors = read(model)
    rows = tensors[name].astype(np.float32)
    rows[0] = 0.0
    rows[1] = -0.0
    rows[2], rows[3] = 0.25, -0.25
    rows[4], rows[5] = np.abs(rows[4]), -np.abs(rows[5])
    rows[6] *= 1e-3
    rows[7] *= 1e-6
    rows[8] *= 1e-30
    tensors[name] = rows.astype(ml_dtypes.bfloat16)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    (source / "config.json").write_bytes((model / "config.json").read_bytes())
    weights = tensors[name].astype(np.float64)
    for options in (), ("--asymmetric",):
        for bits in 4, 8:
            target = tmp_path / f"gptq{bits}{''.join(options)}"
            qstore("quantize", source, "--to", f"gptq{bits}", *options, "-o", target)
            back, scale, zero = dequantised(read(target), name.removesuffix(".weight"), bits)
            assert (scale > 0).all()
            assert (zero >= 1).all()
            assert (back[:2] == 0).all()
            assert_near(weights, back, scale, bits)
