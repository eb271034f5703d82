"""Small random models with the layer names, aspect ratios and tying of the real families.

What makes a family hard for a store is its names and shapes, not its size: grouped-query attention, vision and audio
towers, tied heads, modules that transformers renames between memory and disk. A random model of two layers has all of
it and quantises in a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

VOCAB = 2048


@dataclass(frozen=True)
class Family:
    """One model family: how to make its configuration, and the class that its published checkpoints name."""

    name: str
    architecture: str
    config: Callable[[], PretrainedConfig]

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """The class that transformers has for `architecture`."""
        return getattr(transformers, self.architecture)

    def build(self, dtype: torch.dtype, seed: int = 0) -> PreTrainedModel:
        """A random model in `dtype`, the same on every call."""
        torch.manual_seed(seed)
        model = self.model_class(self.config())
        with torch.no_grad():
            for parameter in model.parameters():
                # transformers initialises biases with zeros and norms with ones; trained ones are neither.
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        return model.to(dtype).eval()


def _llama() -> PretrainedConfig:
    return transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=896,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
        },
        tie_word_embeddings=False,
    )


def _qwen2() -> PretrainedConfig:
    return transformers.Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=224,
        intermediate_size=1184,
        num_hidden_layers=2,
        num_attention_heads=7,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )


def _mistral() -> PretrainedConfig:
    return transformers.MistralConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=896,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )


def _deepseek_coder() -> PretrainedConfig:
    return transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=8,
        rope_parameters={"rope_type": "linear", "rope_theta": 100000.0, "factor": 4.0},
        tie_word_embeddings=False,
    )


def _qwen2_5_vl() -> PretrainedConfig:
    return transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 224,
            "intermediate_size": 1184,
            "num_hidden_layers": 2,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 160,
            "intermediate_size": 428,
            "num_heads": 4,
            "out_hidden_size": 224,
            "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=False,
    )


def _qwen2_audio() -> PretrainedConfig:
    return transformers.Qwen2AudioConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": VOCAB,
            "hidden_size": 256,
            "intermediate_size": 688,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "tie_word_embeddings": False,
        },
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": 160,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 640,
            "max_source_positions": 128,
        },
        audio_token_index=VOCAB - 1,
    )


def _gemma3() -> PretrainedConfig:
    return transformers.Gemma3Config(
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "sliding_window": 64,
        },
        vision_config={
            "hidden_size": 144,
            "intermediate_size": 538,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=4,
    )


def _bert() -> PretrainedConfig:
    return transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=8,
    )


def _gpt2() -> PretrainedConfig:
    return transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=256, n_embd=256, n_layer=2, n_head=8, bos_token_id=0, eos_token_id=1
    )


LLAMA = Family("llama-3.1", "LlamaForCausalLM", _llama)
BERT = Family("bert", "BertModel", _bert)
BERT_MASKED_LM = Family("bert-masked-lm", "BertForMaskedLM", _bert)
GPT2 = Family("gpt2", "GPT2LMHeadModel", _gpt2)

#: The seven families that the QStore paper evaluates.
PAPER_FAMILIES = (
    LLAMA,
    Family("qwen2.5", "Qwen2ForCausalLM", _qwen2),
    Family("mistral", "MistralForCausalLM", _mistral),
    Family("qwen2.5-vl", "Qwen2_5_VLForConditionalGeneration", _qwen2_5_vl),
    Family("qwen2-audio", "Qwen2AudioForConditionalGeneration", _qwen2_audio),
    Family("deepseek-coder", "LlamaForCausalLM", _deepseek_coder),
    Family("gemma-3", "Gemma3ForConditionalGeneration", _gemma3),
)
