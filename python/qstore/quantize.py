"""Makes the GPTQ folders that a store keeps below a 16-bit model, with gptqmodel.

    python -m qstore.quantize MODEL_DIR --calibration TEXT_FILE --bits 8 4 -o OUT_DIR

writes OUT_DIR/gptq8 and OUT_DIR/gptq4, which transformers loads, and prints the `qstore pack` command that
stores them with MODEL_DIR. A folder appears under its name only when it is whole.

Needs the packages of the extra `quantize`: `pip install gptqmodel optimum`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Characters read for each token wanted: text seldom has more, and tokenising a whole corpus would take long.
CHARACTERS_PER_TOKEN = 8

#: What the 16- or 32-bit folder is called in the store.
TOP_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m qstore.quantize", description="Quantise a model with GPTQ, for a store of several precisions."
    )
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="a BF16, FP16 or FP32 folder; it is only read")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT_DIR", required=True)
    parser.add_argument(
        "--calibration", type=Path, metavar="TEXT_FILE", required=True, help="text like the model's use"
    )
    parser.add_argument("--bits", type=int, nargs="+", choices=(2, 3, 4, 8), default=[8, 4])
    parser.add_argument("--group-size", type=int, default=128, help="weights that share a scale; -1: a whole column")
    parser.add_argument("--sym", action=argparse.BooleanOptionalAction, default=True, help="zero-points in the middle")
    parser.add_argument("--desc-act", action="store_true", help="quantise columns by falling activation")
    parser.add_argument("--samples", type=int, default=128, help="pieces of the text to calibrate with")
    parser.add_argument("--sequence-length", type=int, default=2048, help="tokens in each of them")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:0")
    options = parser.parse_args()
    if options.samples < 1 or options.sequence_length < 1:
        parser.error("--samples and --sequence-length are at least 1")
    if options.group_size != -1 and options.group_size < 1:
        parser.error("--group-size is at least 1, or -1")
    return options


def read_config(folder: Path) -> dict[str, Any]:
    """The model's `config.json`; ends the program if the folder is none that can be quantised."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {folder} is not a model folder: {error}")
    if "quantization_config" in config:
        sys.exit(f"error: {folder} is quantised already; GPTQ starts from BF16, FP16 or FP32")
    return config


def dtype_name(config: dict[str, Any]) -> str:
    """What the weights are, such as `bfloat16`; transformers before release 5 called it `torch_dtype`."""
    return config.get("dtype") or config.get("torch_dtype") or "unknown"


def read_calibration(file: Path, tokenizer: PreTrainedTokenizerBase, samples: int, length: int) -> list[dict[str, Any]]:
    """Up to `samples` pieces of `length` tokens, evenly spaced over the text."""
    import torch

    try:
        with file.open(encoding="utf-8") as text:
            tokens = tokenizer(text.read(samples * length * CHARACTERS_PER_TOKEN))["input_ids"]
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"error: the calibration text {file} cannot be read: {error}")
    if len(tokens) < length:
        sys.exit(f"error: {file} has {len(tokens)} tokens, fewer than one sample of {length} (--sequence-length)")
    samples = min(samples, len(tokens) // length)
    starts = [(len(tokens) - length) * i // max(samples - 1, 1) for i in range(samples)]
    pieces = [torch.tensor(tokens[start : start + length]).unsqueeze(0) for start in starts]
    return [{"input_ids": piece, "attention_mask": torch.ones_like(piece)} for piece in pieces]


@contextlib.contextmanager
def _working_in(folder: str) -> Iterator[None]:
    """`contextlib.chdir`, which Python has from 3.11 on."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def quantize(
    source: Path, target: Path, bits: int, calibration: list[dict[str, Any]], options: argparse.Namespace, **load: Any
) -> None:
    """Writes `source` in `bits` bits as the new folder `target`, or nothing."""
    from gptqmodel import GPTQModel, QuantizeConfig

    # gptqmodel also leaves logs and parked layers in the current folder: both go with the temporary one. The name of
    # the latter ends up in config.json, so it is one that says nothing of this machine.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as work, _working_in(work):
        config = QuantizeConfig(
            bits=bits,
            group_size=options.group_size,
            sym=options.sym,
            desc_act=options.desc_act,
            # Sorts whole groups instead of columns, which leaves `g_idx` in order; gptqmodel refuses it for the others.
            act_group_aware=not options.desc_act and options.group_size != -1,
            offload_to_disk_path="offload",
        )
        model = GPTQModel.load(str(source), config, **load)
        model.quantize(calibration, batch_size=1)
        model.save("model")
        if target.exists():
            sys.exit(f"error: {target} was made by someone else meanwhile; it was left alone")
        Path("model").rename(target)


def quantize_all(source: Path, targets: dict[int, Path], config: dict[str, Any], options: argparse.Namespace) -> None:
    """Writes `source` in each of the widths; `targets` says where."""
    if (os.cpu_count() or 1) <= 2:
        # gptqmodel 7.7 takes half of the processors, and fails to start with one worker.
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    try:
        import gptqmodel  # noqa: F401  (first, as it sets what torch reads when it is imported)
        import torch
        from transformers import AutoTokenizer
    except ImportError as error:
        sys.exit(f"error: {error}; run: {Path(sys.executable).name} -m pip install gptqmodel optimum")

    device = options.device
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    # Left to itself, gptqmodel casts what it does not quantise to BF16 (on a CPU always): embeddings and norms would
    # differ from the original's, and a store would keep them twice.
    dtype = getattr(torch, dtype_name(config), "auto")
    length = min(options.sequence_length, config.get("max_position_embeddings", options.sequence_length))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {source} has no tokenizer to read the calibration text with: {error}")
    calibration = read_calibration(options.calibration, tokenizer, options.samples, length)
    for bits, target in targets.items():
        print(f"{target.name}: {len(calibration)} samples of {length} tokens, on {device}")
        target.parent.mkdir(parents=True, exist_ok=True)
        quantize(source, target, bits, calibration, options, device=device, dtype=dtype)
        gc.collect()  # the model is full of cycles, and the next one needs its memory


def main() -> None:
    options = arguments()
    source, output = options.model.resolve(), options.output.resolve()
    config = read_config(source)
    targets = {bits: output / f"gptq{bits}" for bits in sorted(set(options.bits), reverse=True)}
    for target in targets.values():
        if target.exists():
            sys.exit(f"error: {target} exists; name another folder with -o, or remove it")
    if not options.calibration.is_file():
        sys.exit(f"error: there is no calibration text {options.calibration}")

    # All that gptqmodel says is progress; standard output is for the command alone.
    with contextlib.redirect_stdout(sys.stderr):
        quantize_all(source, targets, config, options)

    folders = {TOP_NAMES.get(dtype_name(config), "top"): source} | {path.name: path for path in targets.values()}
    command = ["qstore", "pack", *(f"{name}={folder}" for name, folder in folders.items())]
    print(shlex.join([*command, "-o", str(output / f"{source.name}.qstore")]))


if __name__ == "__main__":
    main()
