"""`python -m qstore.quantize` writes GPTQ folders that transformers loads, and that a store keeps with their
original."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

from .checkpoints import INPUT_IDS, assert_same_files, read_tensors
from .cli import QStore

# Not imported here: it patches transformers.
if importlib.util.find_spec("gptqmodel") is None:
    pytest.skip("gptqmodel is not installed (see tests/e2e/requirements-gptq.txt)", allow_module_level=True)

TEXT = Path(__file__).parents[2] / "python" / "qstore" / "quantize.py"

#: Half a minute on two cores, most of it to start gptqmodel.
TIMEOUT_SECONDS = 600

#: gptqmodel patches transformers when it is imported, which the other tests of this process must not see.
SAVE_LOGITS = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], device_map="cpu").eval()
with torch.inference_mode():
    torch.save(model(input_ids=torch.load(sys.argv[2])).logits.float(), sys.argv[3])
"""

SAME_FROM_STORE = """
import sys, torch, transformers
from qstore.transformers import from_pretrained
folder, store, variant, input_ids = sys.argv[1:]
expected = transformers.AutoModelForCausalLM.from_pretrained(folder, device_map="cpu").eval()
actual = from_pretrained(transformers.AutoModelForCausalLM, store, variant=variant, device_map="cpu").eval()
assert [type(module) for module in actual.modules()] == [type(module) for module in expected.modules()]
state = expected.state_dict()
assert len([name for name in state if "qweight" in name]) == 7
assert actual.state_dict().keys() == state.keys()
for name, value in actual.state_dict().items():
    assert value.dtype == state[name].dtype and torch.equal(value, state[name]), name
assert actual.config.quantization_config.to_dict() == expected.config.quantization_config.to_dict()
with torch.inference_mode():
    logits = [model(input_ids=torch.load(input_ids)).logits for model in (actual, expected)]
assert torch.equal(*logits)
"""


def _python(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    # gptqmodel draws no progress, and speaks otherwise, where it sees that pytest runs it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False, env=environment
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done


def _logits(folder: Path, scratch: Path) -> torch.Tensor:
    torch.save(INPUT_IDS, scratch / "input_ids")
    _python("-c", SAVE_LOGITS, folder, scratch / "input_ids", scratch / "logits")
    return torch.load(scratch / "logits")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of one layer in FP16, whose tokenizer takes each byte for a token."""
    folder = tmp_path_factory.mktemp("gptq") / "original"
    torch.manual_seed(0)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({text: i for i, text in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(alphabet),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float16).save_pretrained(folder)
    return folder


def test_folders_load_and_are_stored(original: Path, qstore: QStore, tmp_path: Path) -> None:
    output = tmp_path / "made"
    options = ("--samples", 8, "--sequence-length", 128, "--device", "cpu")
    done = _python(
        "-m",
        "qstore.quantize",
        original,
        "--calibration",
        TEXT,
        "--bits",
        8,
        4,
        "--group-size",
        32,
        *options,
        "-o",
        output,
    )

    assert sorted(path.name for path in output.iterdir()) == ["gptq4", "gptq8"]
    kept = {name: tensor for name, tensor in read_tensors(original).items() if "_proj" not in name}
    expected = _logits(original, tmp_path)
    for bits, off in ((8, 0.01), (4, 0.2)):
        folder = output / f"gptq{bits}"
        tensors = read_tensors(folder)
        assert tensors["model.layers.0.mlp.down_proj.qweight"].shape == (256 * bits // 32, 128)
        assert kept.items() <= tensors.items()
        assert not [path for path in folder.glob("*.json") if tempfile.gettempdir() in path.read_text(encoding="utf-8")]
        difference = _logits(folder, tmp_path) - expected
        assert difference.norm() < off * expected.norm()

    program, *arguments = shlex.split(done.stdout)
    assert program == "qstore"
    qstore.run(*arguments)
    store = output / "original.qstore"
    for name, folder in (("fp16", original), ("gptq8", output / "gptq8"), ("gptq4", output / "gptq4")):
        assert_same_files(qstore.unpack(store, name, tmp_path / name), folder)
    for name in ("gptq8", "gptq4"):
        _python("-c", SAME_FROM_STORE, output / name, store, name, tmp_path / "input_ids")


def test_failure_leaves_nothing(original: Path, tmp_path: Path) -> None:
    """No kernel takes groups of 48, which gptqmodel finds when it has begun."""
    options = ("--samples", 1, "--sequence-length", 64, "--device", "cpu", "-o", tmp_path / "made")
    _python("-m", "qstore.quantize", original, "--calibration", TEXT, "--group-size", 48, *options, status=1)
    assert list((tmp_path / "made").iterdir()) == []


def test_refusals_name_the_path(original: Path, tmp_path: Path) -> None:
    (tmp_path / "made" / "gptq4").mkdir(parents=True)
    quantised = tmp_path / "quantised"
    quantised.mkdir()
    (quantised / "config.json").write_text(json.dumps({"quantization_config": {}}), encoding="utf-8")
    missing = tmp_path / "missing"

    for model, text, output, named in (
        (missing, TEXT, missing, missing),
        (quantised, TEXT, missing, quantised),
        (original, missing, missing, missing),
        (original, TEXT, tmp_path / "made", tmp_path / "made" / "gptq4"),
    ):
        done = _python("-m", "qstore.quantize", model, "--calibration", text, "-o", output, status=1)
        assert done.stderr.startswith("error: ") and str(named) in done.stderr
        assert not missing.exists()
