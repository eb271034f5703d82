"""Loading models, tokenizers and what else transformers knows straight from a store."""

from __future__ import annotations

import copy
import json
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qstore.errors import UsageError
from qstore.store import Store, TensorSlice, Variant

if TYPE_CHECKING:
    from os import PathLike

#: A model, a tokenizer, a configuration, ...
T = TypeVar("T")

#: Files that hold weights in formats that are not read here; a model's folder may have them beside its safetensors.
_WEIGHTS = (".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".pt", ".pth", ".safetensors")


def from_pretrained(
    cls: type[T], path: str | PathLike[str], *arguments: Any, variant: str | None = None, **options: Any
) -> T:
    """What `cls.from_pretrained` gives for a variant's folder, without the folder: tensors are decoded one by one into the model.

        model = from_pretrained(AutoModelForCausalLM, "llama.qstore", variant="int8")
        tokenizer = from_pretrained(AutoTokenizer, "llama.qstore", variant="int8")

    Args:
        cls: A class of transformers that has `from_pretrained`: of models, tokenizers, processors, configurations.
        path: The store's folder.
        variant: The variant; may be left out where the store has one only.
        arguments, options: What `cls.from_pretrained` takes after the folder, such as `dtype` and `device_map`.

    Raises:
        NotFoundError: There is no store, or a file of the variant is not there.
        UnknownNameError: The store has no such variant.
        UsageError: It has several, and none is named; or an option has no meaning here.
        DamagedError: What is stored is damaged.
    """
    with Store(path, framework="pt") as store:
        opened = store.variant(variant)
        folder = tempfile.TemporaryDirectory(prefix="qstore-")
        try:
            _restore_small_files(opened, Path(folder.name))
            if _has_weights(cls):
                made: T = _model(cls, opened, folder.name, arguments, options)
                # As transformers says where a model is from.
                model = _first(made)
                model.name_or_path = model.config.name_or_path = str(path)
                folder.cleanup()
            else:
                made = cls.from_pretrained(folder.name, *arguments, **options)  # type: ignore[attr-defined]
                # A tokenizer may copy its files when it is saved.
                weakref.finalize(_first(made), folder.cleanup)
        except BaseException:
            folder.cleanup()
            raise
        return made


class LazyTensor(TensorSlice):
    """A tensor that transformers reads when it comes to it."""

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

    # The classes that choose a model's class by its configuration are no models.
    return hasattr(cls, "_model_mapping") or (isinstance(cls, type) and issubclass(cls, PreTrainedModel))


def _model(cls: Any, variant: Variant, folder: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    import transformers

    if int(transformers.__version__.partition(".")[0]) < 5:
        raise UsageError(
            f"transformers {transformers.__version__} cannot load tensor by tensor; it takes 5.0 or later, or `qstore.unpack`"
        )
    for name in ("state_dict", "gguf_file", "subfolder"):
        if options.get(name):
            raise UsageError(f"{name} has no meaning here: the weights are those of the store")
    config, options = _config(cls, folder, options)
    cls, config = _resolve(cls, config, options)
    tensors = {name: LazyTensor(name, *variant._described(name), variant) for name in variant}
    model = cls.from_pretrained(None, *arguments, config=config, state_dict=tensors, **options)
    found = _first(model)
    if found.can_generate() and options.get("generation_config") is None:
        _read_generation_config(found, folder)
    return model


def _config(cls: Any, folder: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The configuration, and the options that it does not take."""
    from transformers import AutoConfig, PreTrainedConfig

    options = dict(options)
    config = options.pop("config", None)
    if isinstance(config, PreTrainedConfig):
        return config, options
    # These are the model's, though a configuration has attributes of the same names.
    apart = ("dtype", "torch_dtype", "quantization_config", "trust_remote_code")
    kept = {name: options.pop(name) for name in apart if name in options}
    trust = {name: kept[name] for name in ("trust_remote_code",) if name in kept}
    made_by = AutoConfig if getattr(cls, "config_class", None) is None else cls.config_class
    config, options = made_by.from_pretrained(
        folder if config is None else config, return_unused_kwargs=True, **trust, **options
    )
    return config, options | kept


def _resolve(cls: Any, config: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """The model's own class, which an `AutoModel...` chooses by the configuration, and the configuration that it takes."""
    if not hasattr(cls, "_model_mapping"):
        return cls, config
    import torch

    trust = {name: options[name] for name in ("trust_remote_code",) if name in options}
    with torch.device("meta"):
        # A model without memory: to ask what would be made is not possible.
        cls = type(cls.from_config(copy.deepcopy(config), **trust))
    if cls.config_class is not None and not isinstance(config, cls.config_class):
        # The language model of one that also sees or hears.
        quantised = getattr(config, "quantization_config", None)
        config = config.get_text_config()
        if quantised is not None:
            config.quantization_config = quantised
    return cls, config


def _read_generation_config(model: Any, folder: str) -> None:
    from transformers import GenerationConfig

    if (Path(folder) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    else:
        # Older models have what generation takes among the rest.
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        model.generation_config = GenerationConfig.from_model_config(config)


def _restore_small_files(variant: Variant, folder: Path) -> None:
    for name in variant.files():
        if not name.endswith((*_WEIGHTS, ".safetensors.index.json")):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(variant.read_file(name))


def _first(made: Any) -> Any:
    """What was asked for: with some options, classes give it in a tuple with more."""
    return made[0] if isinstance(made, tuple) else made
