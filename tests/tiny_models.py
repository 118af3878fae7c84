"""Tiny random models of real transformers classes, and contributions worked out the slow way."""

from __future__ import annotations

import numpy as np
import torch
import transformers
from torch import nn

from moemui.scores.contributions import Sample

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
FAMILIES = ("olmoe", "deepseek_v2", "qwen2_moe", "qwen3_moe", "mixtral", "gpt_oss", "llama", "qwen3")


def build(family: str, seed: int = 0) -> nn.Module:
    """A model of the family in evaluation mode; biases and norm weights are random, so that a missed one shows."""
    torch.manual_seed(seed)
    experts = {"num_experts": 8, "num_experts_per_tok": 2}
    if family == "olmoe":
        model = transformers.OlmoeForCausalLM(transformers.OlmoeConfig(**COMMON, **experts, intermediate_size=24))
    elif family == "deepseek_v2":
        config = transformers.DeepseekV2Config(
            **{**COMMON, "num_key_value_heads": 4},
            intermediate_size=40,
            moe_intermediate_size=24,
            n_routed_experts=8,
            n_shared_experts=2,
            num_experts_per_tok=2,
            first_k_dense_replace=1,
            kv_lora_rank=16,
            q_lora_rank=None,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=8,
            topk_method="greedy",
            n_group=None,
            topk_group=None,
            routed_scaling_factor=1.7,
        )
        model = transformers.DeepseekV2ForCausalLM(config)
    elif family == "qwen2_moe":
        widths = {"intermediate_size": 40, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 48}
        model = transformers.Qwen2MoeForCausalLM(transformers.Qwen2MoeConfig(**COMMON, **experts, **widths))
    elif family == "qwen3_moe":
        widths = {"intermediate_size": 40, "moe_intermediate_size": 24, "head_dim": 8}
        model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**COMMON, **experts, **widths))
    elif family == "mixtral":
        config = transformers.MixtralConfig(**COMMON, num_local_experts=8, num_experts_per_tok=2, intermediate_size=24)
        model = transformers.MixtralForCausalLM(config)
    elif family == "gpt_oss":
        config = transformers.GptOssConfig(
            **COMMON,
            head_dim=8,
            intermediate_size=24,
            num_local_experts=8,
            num_experts_per_tok=2,
            sliding_window=8,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        )
        model = transformers.GptOssForCausalLM(config)
    elif family == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**COMMON, intermediate_size=24))
    elif family == "qwen3":
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**COMMON, intermediate_size=24, head_dim=8))
    else:
        raise ValueError(family)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            parameter.data = 0.1 * noise
        elif "norm" in name:
            parameter.data += 0.1 * noise
    return model.eval().requires_grad_(False)


def samples(count: int = 5, seed: int = 0) -> list[Sample]:
    """Samples of different lengths; the first has an empty response, the second one token."""
    g = torch.Generator().manual_seed(seed)

    def draw(n: int) -> list[int]:
        return torch.randint(3, 97, (n,), generator=g).tolist()

    return [Sample(str(i), draw(2 + i % 3), draw(i)) for i in range(count)]


def oracle(model: nn.Module, prompt: list[int], response: list[int]) -> list[dict[str, np.ndarray]]:
    """All contributions of one sample, a dict of (response token, neuron of the layer) arrays for each MoE layer.

    A plain loop over tokens, experts and neurons from the weights, in float64; unused experts are NaN. It shares
    nothing with the package: the block's input and the router's choice are read by hooks of its own.
    """
    seen: dict[int, dict[str, torch.Tensor]] = {}
    handles = []
    layers = list(model.model.layers)
    dense = not any(hasattr(layer.mlp, "experts") for layer in layers)
    wanted = [i for i, layer in enumerate(layers) if dense or hasattr(layer.mlp, "experts")]
    for i in wanted:
        record = seen.setdefault(i, {})

        def block_input(module, args, record=record):
            record["x"] = args[0].reshape(-1, args[0].shape[-1])

        def chosen(module, args, output, record=record):
            record["weight"], record["expert"] = output[-2], output[-1]

        mlp = layers[i].mlp
        handles.append(mlp.register_forward_pre_hook(block_input))
        if not dense:
            router = mlp.router if hasattr(mlp, "router") else mlp.gate
            handles.append(router.register_forward_hook(chosen))
    model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False)
    for handle in handles:
        handle.remove()
    head = model.lm_head.weight.double().numpy()
    results = []
    for i in wanted:
        mlp, record = layers[i].mlp, seen[i]
        width, experts = _widths(mlp, dense)
        per_token: list[dict[str, np.ndarray]] = []
        for t, target in enumerate(response):
            position = len(prompt) - 1 + t
            x = record["x"][position].double().numpy()
            row = {name: np.full(width * experts, np.nan) for name in ("projection", "glu", "activation")}
            used = (
                []
                if dense
                else list(zip(record["expert"][position].tolist(), record["weight"][position].tolist(), strict=True))
            )
            for expert, weight in used:
                gate, up, down = _expert(mlp.experts, expert, x)
                _put(row, expert * width, weight, gate, up, down @ head[target])
            shared = mlp if dense else getattr(mlp, "shared_experts", None) or getattr(mlp, "shared_expert", None)
            if shared is not None:
                weight = 1.0
                if hasattr(mlp, "shared_expert_gate"):
                    weight = 1 / (1 + np.exp(-(mlp.shared_expert_gate.weight.double().numpy() @ x)[0]))
                gate = _silu(shared.gate_proj.weight.double().numpy() @ x)
                up = shared.up_proj.weight.double().numpy() @ x
                first = 0 if dense else mlp.experts.num_experts * width
                _put(row, first, weight, gate, up, shared.down_proj.weight.double().numpy().T @ head[target])
            per_token.append(row)
        results.append({name: np.stack([row[name] for row in per_token]) for name in per_token[0]})
    return results


def _widths(mlp: nn.Module, dense: bool) -> tuple[int, int]:
    if dense:
        return mlp.down_proj.in_features, 1
    down = mlp.experts.down_proj
    width = down.shape[1] if mlp.experts.is_transposed else down.shape[2]
    shared = getattr(mlp, "shared_experts", None) or getattr(mlp, "shared_expert", None)
    return width, mlp.experts.num_experts + (shared.down_proj.in_features // width if shared is not None else 0)


def _expert(experts: nn.Module, number: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """act(gate), the factor from up, and W_down with one row a neuron."""
    both, down = experts.gate_up_proj[number].double().numpy(), experts.down_proj[number].double().numpy()
    if experts.is_transposed:  # GPT-OSS: interleaved, with biases, clamps and up + 1
        z = x @ both + experts.gate_up_proj_bias[number].double().numpy()
        gate, up = np.minimum(z[::2], experts.limit), np.clip(z[1::2], -experts.limit, experts.limit)
        return gate / (1 + np.exp(-experts.alpha * gate)), up + 1, down
    z = both @ x
    return _silu(z[: len(z) // 2]), z[len(z) // 2 :], down.T


def _put(
    row: dict[str, np.ndarray], first: int, weight: float, gate: np.ndarray, up: np.ndarray, pull: np.ndarray
) -> None:
    for j in range(len(gate)):
        row["projection"][first + j] = weight * gate[j] * pull[j]
        row["glu"][first + j] = weight * gate[j] * up[j] * pull[j]
        row["activation"][first + j] = gate[j]


def _silu(z: np.ndarray) -> np.ndarray:
    return z / (1 + np.exp(-z))
