"""Tiny random models of every architecture of the installed transformers that runs experts through its dispatch.

Which architectures there are is read from transformers' own files; only the values that make one small are typed here.
Factors, biases, clamps and norm weights differ from their neutral values, so that one that is missed shows.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

VOCABULARY = 64

# Given to every config that has a field of the name.
GENERIC: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "unpadded_vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "num_hidden_layers": 3,
    "hidden_size": 32,
    # attention
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "sliding_window": 8,
    "sliding_window_size": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "o_lora_rank": 8,
    "o_groups": 2,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "index_topk": 8,
    "index_head_dim": 8,
    "index_n_heads": 2,
    # linear attention and state spaces
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "mamba_chunk_size": 8,
    "ssm_state_size": 8,
    "n_groups": 2,
    "chunk_size": 8,
    "gated_norm_rank": 4,
    "hc_mult": 2,
    # which layers have experts
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "num_mtp_layers": 0,
    "num_nextn_predict_layers": 0,
    # widths: 32 is twice an expert's 16, so some shared MLPs are two experts; 24 is no multiple, so some are one. All
    # are multiples of 8, which grouped_mm wants in bfloat16.
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "dense_intermediate_size": 40,
    "prefix_dense_intermediate_size": 40,
    "shared_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "shared_experts_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 24,
    "moe_hidden_size": 24,
    "n_shared_experts": 2,
    "num_shared_experts": 2,
    "moe_num_shared_experts": 2,
    # routing
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "num_experts_per_tok": 2,
    "top_k_experts": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_group": 2,
    "topk_group": 1,
    "norm_topk_prob": True,
    # what must not be missed
    "routed_scaling_factor": 1.7,
    "route_scale": 1.7,
    "moe_routed_scaling_factor": 1.7,
    "router_scaling_factor": 1.7,
    "residual_multiplier": 0.6,
    "embedding_multiplier": 1.5,
    "mlp_alpha_factor": 1.3,
    "mlp_beta_factor": 0.7,
    "mlp_bias": True,
    "use_bias": True,
    "swiglu_limit": 1.2,
    "swiglu_alpha": 1.3,
    "mlp_gate_softcap": 0.9,
    "mlp_up_softcap": 1.5,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What an architecture needs beyond GENERIC: config values, and class names where the usual ones don't serve."""

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: str | None = None
    config: str | None = None


def _rope(*sections: int, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **more}}


NEMOTRON_LAYERS = {"layers_block_type": ["mamba", "moe", "attention", "moe"], "num_hidden_layers": None}

RECIPES: dict[str, Recipe] = {
    "afmoe": Recipe(),
    "aria": Recipe(),
    "axk1": Recipe(),
    "axk2": Recipe(),
    "bailing_hybrid": Recipe(),
    "beam": Recipe(),
    "cohere2_moe": Recipe(),
    "deepseek_ocr2": Recipe(),
    "deepseek_v2": Recipe(),
    "deepseek_v3": Recipe(),
    "deepseek_v32": Recipe(),
    "deepseek_v4": Recipe(
        {
            "mlp_layer_types": ["hash_moe", "moe", "moe"],
            "num_key_value_heads": 1,
            "head_dim": 16,
            "partial_rotary_factor": 0.5,
            "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
            "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
        }
    ),
    "diffusion_gemma": Recipe(
        {"global_head_dim": 8}, model="DiffusionGemmaEncoderTextModel", config="DiffusionGemmaTextConfig"
    ),
    "dots1": Recipe(),
    "dots3_note": Recipe(
        {
            "head_dim": 16,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 4,
            "swa_head_dim": 16,
            "swa_qk_nope_head_dim": 8,
            "swa_v_head_dim": 8,
            "swa_q_lora_rank": 16,
            "swa_kv_lora_rank": 16,
        }
    ),
    "ernie4_5_moe": Recipe(),
    # Two sets of experts a layer, for text and for images, of different widths; text runs through the first.
    "ernie4_5_vl_moe": Recipe({"moe_intermediate_size": [16, 8], **_rope(1, 1, 2)}),
    "exaone_moe": Recipe(),
    "flex_olmo": Recipe(),
    "flint": Recipe(),
    "gemma4": Recipe(
        {
            "enable_moe_block": True,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": VOCABULARY,
            "global_head_dim": 8,
        }
    ),
    "glm4_moe": Recipe(),
    "glm4_moe_lite": Recipe(),
    "glm4v_moe": Recipe(_rope(2, 1, 1, partial_rotary_factor=1.0)),
    "glm5_next": Recipe({"qk_rope_head_dim": 0, "index_kpool": 4}),
    "glm_moe_dsa": Recipe(),
    "gpt_oss": Recipe(),
    "granitemoe": Recipe(),
    "granitemoe_swa": Recipe(),
    "granitemoehybrid": Recipe(),
    "granitemoeshared": Recipe(),
    "hunyuan_v1_moe": Recipe(),
    "hy_v3": Recipe(),
    "hy_v4": Recipe(),
    "inkling": Recipe(),
    "inkling2": Recipe(),
    "jamba": Recipe({"attn_layer_period": 2, "attn_layer_offset": 0}),
    "kimi_linear": Recipe(),
    "kolibri1": Recipe(),
    "laguna": Recipe(),
    "lfm2_moe": Recipe({"layer_types": ["conv", "full_attention", "conv"]}),
    "mellum": Recipe(),
    "mimo_v2_flash": Recipe(),
    "minimax": Recipe(),
    "minimax_m2": Recipe(),
    "minimax_m3_vl": Recipe({"rotary_dim": 8}),
    "mistral4": Recipe(),
    "mistral_large4": Recipe(),
    "mixtral": Recipe(),
    "muse_spark": Recipe(),
    "nemotron_h": Recipe({**NEMOTRON_LAYERS, "moe_latent_size": 16, "mlp_bias": False}),
    "olmoe": Recipe(),
    "openai_privacy_filter": Recipe(model="OpenAIPrivacyFilterModel", config="OpenAIPrivacyFilterConfig"),
    "phimoe": Recipe(),
    "qwen2_moe": Recipe(),
    "qwen3_5_moe": Recipe(),
    "qwen3_moe": Recipe(),
    "qwen3_next": Recipe(),
    "qwen3_omni_moe": Recipe(model="Qwen3OmniMoeThinkerTextModel", config="Qwen3OmniMoeTextConfig"),
    "qwen3_vl_moe": Recipe(),
    "qwen4_exp": Recipe({"hc_count": 2, "hc_lowrank": 8}),
    "solar_open": Recipe(),
    "unlimited_ocr": Recipe(),
    "zaya": Recipe({"num_experts_per_tok": 1, "router_hidden_size": 16}),
}

# Other settings of an architecture that change what its MoE block does: "architecture/what differs".
VARIANTS: dict[str, Recipe] = {
    "cohere2_moe/sum": Recipe({"shared_expert_combination_strategy": "sum"}),
    "gemma4/dense": Recipe({**RECIPES["gemma4"].values, "enable_moe_block": False}),
    "gemma4/per_layer_input": Recipe({**RECIPES["gemma4"].values, "hidden_size_per_layer_input": 8}),
    "granitemoehybrid/dense": Recipe({"num_local_experts": 0}),
    "inkling/dense": Recipe({"mlp_layer_types": ["dense", "dense", "dense"]}),
    # A limit below 1, where no up gives a factor of 1.
    "hy_v4/tight_clamp": Recipe({"swiglu_limit": 0.6}),
    "nemotron_h/biases": Recipe({**NEMOTRON_LAYERS, "moe_latent_size": 16, "mlp_bias": True}),
    "nemotron_h/no_latent": Recipe({**NEMOTRON_LAYERS, "mlp_bias": True}),
}

# One always-on expert a layer: no dispatch, so they are not found but named.
_OLD_NAMES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
DENSE: dict[str, Recipe] = {
    "llama": Recipe(),
    "qwen2": Recipe(),
    "qwen3": Recipe(),
    "codegen": Recipe({**_OLD_NAMES, "n_inner": 32, "rotary_dim": 8}),
    "cohere": Recipe(),
    "falcon": Recipe({"ffn_hidden_size": 32, "bias": True}),
    "gemma2": Recipe(),
    "gemma3": Recipe(config="Gemma3TextConfig"),
    "gpt_neo": Recipe({"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4}),
    "gpt_neox": Recipe(),
    "gptj": Recipe({**_OLD_NAMES, "n_inner": 32, "rotary_dim": 8}),
    "granite": Recipe(),
    "nemotron": Recipe(),
    "olmo2": Recipe(),
    "phi": Recipe(),
    "phi3": Recipe(),
    "smollm3": Recipe(),
    "stablelm": Recipe(),
    "starcoder2": Recipe(),
}

# Outside of the dispatch, and of another structure than those above.
UNSUPPORTED: dict[str, Recipe] = {
    "bitnet": Recipe(),
    "bloom": Recipe({"n_layer": 2, "n_head": 4}),
    "dbrx": Recipe(
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        }
    ),
    "gemma3n": Recipe(
        {
            "activation_sparsity_pattern": [0.5, 0.5, 0.5],
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": VOCABULARY,
            "laurel_rank": 8,
        },
        model="Gemma3nForCausalLM",
        config="Gemma3nTextConfig",
    ),
    "gpt2": Recipe({**_OLD_NAMES, "n_inner": 32}, model="GPT2LMHeadModel"),
    "llama4": Recipe({"intermediate_size_mlp": 32}, model="Llama4ForCausalLM", config="Llama4TextConfig"),
    "mamba": Recipe({"state_size": 8}),
    "mpt": Recipe({"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}),
    "opt": Recipe({"ffn_dim": 32, "word_embed_proj_dim": 32}),
}


def dispatched_architectures() -> list[str]:
    """Names of all modelling modules of the installed transformers with experts that run through its dispatch."""
    models = Path(transformers.__file__).parent / "models"
    found = [
        path for path in models.glob("*/modeling_*.py") if "@use_experts_implementation" in path.read_text("utf-8")
    ]
    return sorted(path.stem.removeprefix("modeling_") for path in found)


def build(name: str, seed: int = 1) -> nn.Module:
    """The architecture's causal language model, or its text body with a head, random and in evaluation mode.

    Raises KeyError when no config is known for the architecture.
    """
    model = _construct(name, seed)
    _randomise(model, torch.Generator().manual_seed(seed))
    return model.float().eval().requires_grad_(False)


def build_in_bfloat16(name: str) -> nn.Module:
    """The same model as `from_pretrained(dtype=bfloat16)` loads it.

    That is, built with bfloat16 as default type, so that what a class wants in another type has it, and in float32 what
    the class names in `_keep_in_fp32_modules_strict`.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = _construct(name, 1)
    finally:
        torch.set_default_dtype(before)
    body = model.model if isinstance(model, BodyWithHead) else model
    kept = [entry.replace("*", ".*") for entry in body._keep_in_fp32_modules_strict]
    with torch.no_grad():
        whole = build(name)
        values = dict([*whole.named_parameters(), *whole.named_buffers()])
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            dtype = torch.float32 if any(re.search(entry, key) for entry in kept) else tensor.dtype
            tensor.data = values[key].detach().to(dtype)
    return model.eval().requires_grad_(False)


def _construct(name: str, seed: int) -> nn.Module:
    architecture = name.partition("/")[0]
    recipe = {**RECIPES, **VARIANTS, **DENSE, **UNSUPPORTED}.get(name)
    if recipe is None:
        raise KeyError(f"no config known for {name}; add one to RECIPES")
    modelling = importlib.import_module(f"transformers.models.{architecture}.modeling_{architecture}")
    configuration = importlib.import_module(f"transformers.models.{architecture}.configuration_{architecture}")
    model_class = getattr(modelling, recipe.model) if recipe.model else _model_class(modelling)
    config_class = getattr(configuration, recipe.config) if recipe.config else _config_class(model_class, configuration)
    torch.manual_seed(seed)
    model = model_class(_config(config_class, recipe.values))
    return model if model.get_output_embeddings() is not None else BodyWithHead(model)


class BodyWithHead(nn.Module):
    """A text body that has no causal language model of its own in transformers, with an output head."""

    def __init__(self, body: PreTrainedModel):
        super().__init__()
        self.model, self.config, self.generation_config = body, body.config, None
        self.lm_head = nn.Linear(body.config.hidden_size, VOCABULARY, bias=False)

    def get_decoder(self) -> nn.Module:
        return self.model

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_experts_implementation(self, implementation: str) -> None:
        self.model.set_experts_implementation(implementation)

    def forward(self, input_ids: torch.Tensor, **options: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.lm_head(self.model(input_ids=input_ids, **options).last_hidden_state))


def _model_class(modelling: ModuleType) -> type[PreTrainedModel]:
    classes = [
        value
        for value in vars(modelling).values()
        if inspect.isclass(value) and issubclass(value, PreTrainedModel) and value.__module__ == modelling.__name__
    ]
    for ending in ("ForCausalLM", "TextModel"):
        for found in classes:
            if found.__name__.endswith(ending):
                return found
    raise LookupError(f"{modelling.__name__} has neither a ...ForCausalLM nor a ...TextModel; name a class in RECIPES")


def _config_class(model_class: type[PreTrainedModel], configuration: ModuleType) -> type[transformers.PreTrainedConfig]:
    """The class's own config; of a config for text and more, the text's."""
    own = model_class.config_class
    if "text_config" not in _fields(own) and not model_class.__name__.endswith("TextModel"):
        return own
    texts = [name for name in vars(configuration) if name.endswith("TextConfig")]
    return own if own.__name__ in texts else getattr(configuration, texts[0])


def _config(config_class: type[transformers.PreTrainedConfig], values: dict[str, Any]) -> transformers.PreTrainedConfig:
    fields, aliases = _fields(config_class), config_class.attribute_map
    generic = {
        name: value for name, value in GENERIC.items() if name in fields and aliases.get(name, None) not in fields
    }
    if "kv_lora_rank" in fields and "num_key_value_heads" in generic:
        generic["num_key_value_heads"] = generic["num_attention_heads"]  # latent attention has one of each
    chosen = {name: value for name, value in {**generic, **values}.items() if value is not None}
    return config_class(**chosen)


def _fields(config_class: type) -> set[str]:
    return {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map)


def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    def noise(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator)

    for name, parameter in model.named_parameters():
        kind = name.rsplit(".", 1)[-1]
        if kind in ("A_log", "D", "dt_bias") or "hyper_connection" in name or "hc_" in name:
            continue  # recurrences stay stable only near what the class chose
        if kind.endswith("bias") or parameter.dim() < 2:
            parameter.data += 0.2 * noise(parameter)
        else:
            parameter.data = 0.25 * noise(parameter)
    for name, buffer in model.named_buffers():
        kind = name.rsplit(".", 1)[-1]
        if kind == "balancing_biases":
            buffer.data[-1] += 1.0  # the choice of no expert at all, which starts out as unlikely
        elif "bias" in kind and buffer.is_floating_point():  # of the router's choice
            buffer.data += 0.2 * noise(buffer)
        elif kind == "layer_scalar":
            buffer.data.fill_(0.8)
        elif kind == "tid2eid":  # the experts of each token of the vocabulary
            order = torch.rand(len(buffer), model.config.n_routed_experts, generator=generator).argsort(1)
            buffer.data = order[:, : buffer.shape[1]].contiguous()
