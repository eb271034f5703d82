"""Loading models, tokenizers and what else transformers knows straight from a store."""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import json
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qstore.errors import NotFoundError, UsageError
from qstore.store import Store, TensorSlice, Variant

if TYPE_CHECKING:
    from os import PathLike

#: A model, a tokenizer, a configuration, ...
T = TypeVar("T")

#: Files that hold weights. Those in other formats than safetensors are not read here; a model's folder may have them
#: beside it.
_WEIGHTS = (".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".pt", ".pth", ".safetensors")


def from_pretrained(
    cls: type[T], path: str | PathLike[str], *arguments: Any, variant: str | None = None, **options: Any
) -> T:
    """What `cls.from_pretrained` gives for a variant's folder, without the folder: tensors are decoded one by one into
    the model.

        model = from_pretrained(AutoModelForCausalLM, "llama.qstore", variant="int8")
        tokenizer = from_pretrained(AutoTokenizer, "llama.qstore", variant="int8")

    Args:
        cls: A class of transformers that has `from_pretrained`: of models, tokenizers, processors, configurations.
        path: The store's folder.
        variant: The variant; may be left out where the store has one only.
        arguments, options: What `cls.from_pretrained` takes after the folder, such as `dtype` and `device_map`; but no
            `state_dict`, `gguf_file` and `subfolder`, and not its own `variant`.

    Raises:
        NotFoundError: There is no store, or a file of the variant is not there.
        UnknownNameError: The store has no such variant.
        UsageError: It has several, and none is named; or an option has no meaning here.
        DamagedError: What is stored is damaged.
    """
    with Store(path, framework="pt") as store:
        opened = store.variant(variant)
        temporary = tempfile.TemporaryDirectory(prefix="qstore-")
        try:
            # transformers keeps code that comes with a model under the name of its folder, which should not be another
            # each time, and takes `--` for the `/` of a name on the hub.
            folder = Path(temporary.name) / f"{Path(path).resolve().stem}-{opened.name}".replace("--", "-")
            _restore_small_files(opened, folder)
            if _has_weights(cls):
                made: T = _model(cls, opened, str(folder), arguments, options)
                # As transformers says where a model is from.
                model = _first(made)
                model.name_or_path = model.config.name_or_path = str(path)
                temporary.cleanup()
            else:
                made = cls.from_pretrained(str(folder), *arguments, **options)  # type: ignore[attr-defined]
                # A tokenizer may copy its files when it is saved.
                weakref.finalize(_first(made), temporary.cleanup)
        except BaseException:
            temporary.cleanup()
            raise
        return made


class LazyTensor(TensorSlice):
    """A tensor that transformers reads when it comes to it."""

    def __init__(self, name: str, variant: Variant, failures: list[Exception]) -> None:
        super().__init__(name, *variant._described(name), variant)
        self._failures = failures

    def __getitem__(self, index: Any) -> Any:
        """Reads it, and notes if that fails."""
        try:
            return super().__getitem__(index)
        except Exception as error:
            self._failures.append(error)
            raise

    @property
    def dtype(self) -> Any:
        """Its torch type."""
        return self[:0].dtype if self.get_shape() else self[...].dtype

    @property
    def shape(self) -> Any:
        """Its shape."""
        import torch

        return torch.Size(self.get_shape())

    def is_floating_point(self) -> bool:
        """Whether it holds floats."""
        return self.get_dtype().startswith(("F", "BF"))


def _has_weights(cls: Any) -> bool:
    from transformers import PreTrainedModel

    return _chooses(cls) or (isinstance(cls, type) and issubclass(cls, PreTrainedModel))


def _chooses(cls: Any) -> bool:
    """Whether it is an `AutoModel...`, which is no model, but chooses a model's class by its configuration."""
    return hasattr(cls, "from_config")


def _model(cls: Any, variant: Variant, folder: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    import transformers

    if transformers.__version__.partition(".")[0] != "5":
        raise UsageError(
            f"transformers {transformers.__version__} is not known here, but release 5 is; or use `qstore.unpack`"
        )
    for name in ("state_dict", "gguf_file", "subfolder"):
        if options.pop(name, None):
            raise UsageError(f"{name} has no meaning here: the weights are those of the store")
    file = Path(folder) / "config.json"
    described = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    # Both are read from files: of an adapter, the weights; of torchao, what the files say beside their tensors.
    torchao = (described.get("quantization_config") or {}).get("quant_method") == "torchao"
    if torchao or "adapter_config.json" in variant.files():
        what = "is quantised by torchao" if torchao else "has an adapter"
        raise UsageError(f"variant {variant.name} {what}, which is not loaded here; `qstore.unpack` restores it")

    config, options = _config(cls, variant, folder, options)
    if _chooses(cls):
        cls, config = _choice(cls, config, folder, options)
    failures: list[Exception] = []
    tensors = {name: LazyTensor(stored, variant, failures) for name, stored in _weights(variant, described).items()}
    try:
        made = cls.from_pretrained(None, *arguments, config=config, state_dict=tensors, **options)
    finally:
        # Whatever transformers makes of it: no model comes without its weights.
        if failures:
            raise failures[0]
    model = _first(made)
    if model.can_generate():
        _read_generation(model, folder, options)
    return made


def _config(cls: Any, variant: Variant, folder: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The configuration, or where a model's class finds it, and the options that it does not take."""
    from transformers import AutoConfig, PreTrainedConfig

    options = dict(options)
    config = options.pop("config", None)
    if isinstance(config, PreTrainedConfig):
        return config, options
    if config is None:
        _need(variant, "config.json")
        config = folder
    if not _chooses(cls):
        return config, options
    # These are the model's, though a configuration has attributes of the same names.
    apart = ("dtype", "torch_dtype", "quantization_config")
    kept = {name: options.pop(name) for name in apart if name in options}
    kept["trust_remote_code"] = options.get("trust_remote_code")
    config, options = AutoConfig.from_pretrained(config, return_unused_kwargs=True, **options)
    return config, options | kept


def _choice(cls: Any, config: Any, folder: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """The class that an `AutoModel...` chooses by the configuration, and the configuration that this takes."""
    import torch
    from transformers import initialization

    likeness = copy.deepcopy(config)
    # Where code is that comes with the model.
    likeness.name_or_path = folder
    safe = getattr(initialization, "meta_device_safe_creation_ops", contextlib.nullcontext)
    with torch.device("meta"), safe(), initialization.no_init_weights():
        # What would be made is found by making it, as transformers itself does before it loads: without memory.
        chosen = type(cls.from_config(likeness, trust_remote_code=options.get("trust_remote_code")))
    if chosen.config_class is not None and not isinstance(config, chosen.config_class):
        # The language model of one that also sees or hears.
        quantised = getattr(config, "quantization_config", None)
        config = config.get_text_config()
        if quantised is not None:
            config.quantization_config = quantised
    return chosen, config


def _weights(variant: Variant, described: dict[str, Any]) -> dict[str, str]:
    """The tensors of the files that transformers takes a model from, in its order, and their names in the variant.
    Other files may lie beside these."""
    held = {path: tensors or [] for path, _, tensors in variant._core.files()}
    first, index = "model.safetensors", "model.safetensors.index.json"
    named = described.get("transformers_weights") or (first if first in held or index not in held else index)
    _need(variant, named)
    files = [named]
    if named.endswith(".index.json"):
        files = sorted(set(json.loads(variant.read_file(named))["weight_map"].values()))
    # Names that several files have come with the file's.
    return {name.removeprefix(f"{file}:"): name for file in files for name in sorted(held.get(file, ()))}


def _need(variant: Variant, file: str) -> None:
    if file not in variant.files():
        raise NotFoundError(errno.ENOENT, f"{variant._store}: variant {variant.name} has no {file}", file)


def _read_generation(model: Any, folder: str, options: dict[str, Any]) -> None:
    """What says how to generate, which transformers reads from a model's folder when it has loaded the weights."""
    from transformers import GenerationConfig

    if options.get("generation_config") is not None:
        return
    known = GenerationConfig()
    given = {name: value for name, value in options.items() if hasattr(known, name)}
    if (Path(folder) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, **given)
    elif (Path(folder) / "config.json").is_file():
        # Older models have what generation takes among the rest.
        model.generation_config = GenerationConfig.from_pretrained(
            folder, config_file_name="config.json", _from_model_config=True, **given
        )
    if options.get("trust_remote_code") and (Path(folder) / "custom_generate").is_dir():
        generate = model.load_custom_generate(folder, trust_remote_code=True)
        model.generate = functools.partial(generate, model=model)


def _restore_small_files(variant: Variant, folder: Path) -> None:
    folder.mkdir()
    for name in variant.files():
        if not name.endswith((*_WEIGHTS, ".safetensors.index.json")):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(variant.read_file(name))


def _first(made: Any) -> Any:
    """What was asked for: with some options, classes give it in a tuple with more."""
    return made[0] if isinstance(made, tuple) else made
