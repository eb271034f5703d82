"""Loading a model from a store takes the model's own memory, and little more: tensors are decoded into it one by
one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .cli import QStore

#: A loader that holds all tensors twice takes 2; those that are decoded at the same time take some hundredths.
MOST = 1.35

#: A process begins to count anew what it used at most when it writes here; other systems than Linux have nothing like
#: it.
RESET = Path("/proc/self/clear_refs")

MEASURE = r"""
import gc, json, re, sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, LlamaConfig, logging
from qstore.transformers import from_pretrained

logging.set_verbosity_error()
logging.disable_progress_bar()

def resident(what):
    return int(re.search(what + r":\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def growth(variant, **options):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    model = from_pretrained(AutoModelForCausalLM, sys.argv[1], variant=variant, **options)
    peak = resident("VmHWM")
    return peak - before, sum(tensor.nbytes for tensor in model.state_dict().values() if isinstance(tensor,
    torch.Tensor))

# What is imported when it is needed is no part of a model.
AutoModelForCausalLM.from_config(LlamaConfig(hidden_size=64, num_hidden_layers=1, vocab_size=64))
import accelerate, bitsandbytes

print(json.dumps({
    "int8": growth("int8"),
    "bf16": growth("bf16"),
    "bf16 as fp32": growth("bf16", dtype=torch.float32),
}))
"""


@pytest.mark.skipif(not RESET.exists(), reason="this system does not tell what a process used at most")
def test_peak_is_about_the_model(qstore: QStore, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    sizes = ("--hidden", 2048, "--intermediate", 5632, "--layers", 4, "--vocab", 16000)
    qstore.run("demo", "--keep", folder, *map(str, sizes))
    command = [sys.executable, "-c", MEASURE, str(folder / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr

    measured = {name: (growth, size) for name, (growth, size) in json.loads(done.stdout.splitlines()[-1]).items()}
    assert min(size for _, size in measured.values()) > 300e6
    for name, (growth, size) in measured.items():
        # It is all there, in memory of its own.
        assert 0.9 * size < growth < MOST * size, f"{name}: {growth / size:.2f} times its size"
