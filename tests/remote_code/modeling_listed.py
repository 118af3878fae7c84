"""A small decoder that keeps one module per expert, as models that bring their own code do.

It is saved beside its weights and loaded with trust_remote_code. Three blocks stand for the ways in which such models
run their experts: `sorted` (DeepSeek-MoE-16B's: slots sorted by expert, weights multiplied in place, rows scattered
back), `loop` (rows picked expert by expert; the router tells weights and indices, in that order) and `logits` (the same
behind a router that returns logits only, as the first Qwen-MoE code did).
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_listed import ListedConfig


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, states):
        return functional.rms_norm(states, self.weight.shape, self.weight, self.eps)


class MLP(nn.Module):
    def __init__(self, config, width):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, states):
        return self.down_proj(self.act_fn(self.gate_proj(states)) * self.up_proj(states))


class Router(nn.Module):
    """Softmax over the experts, the largest of them kept as they are, and a balancing loss that is none here."""

    def __init__(self, config):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))

    def forward(self, states):
        flat = states.reshape(-1, states.shape[-1])
        shares = functional.linear(flat, self.weight).softmax(dim=-1, dtype=torch.float32)
        weight, index = shares.topk(self.top_k, dim=-1, sorted=False)
        return index, weight.to(states.dtype), None


class WeightsFirst(Router):
    def forward(self, states):
        index, weight, _ = super().forward(states)
        return weight, index


class Block(nn.Module):
    router = Router

    def __init__(self, config):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.gate = self.router(config)
        self.experts = nn.ModuleList(MLP(config, config.moe_intermediate_size) for _ in range(config.n_routed_experts))
        if config.n_shared_experts:
            self.shared_experts = MLP(config, config.moe_intermediate_size * config.n_shared_experts)

    def shared(self, states):
        return self.shared_experts(states) if hasattr(self, "shared_experts") else 0


class SortedBlock(Block):
    def forward(self, states):
        index, weight, _ = self.gate(states)
        flat = states.reshape(-1, states.shape[-1])
        routed = self.run_sorted(flat, index.reshape(-1), weight.reshape(-1, 1))
        return routed.reshape(states.shape) + self.shared(states)

    @torch.no_grad()
    def run_sorted(self, flat, index, weight):
        collected = torch.zeros_like(flat)
        slots = index.argsort()
        start = 0
        for expert, end in enumerate(index.bincount().cumsum(0).tolist()):
            if end > start:
                here = slots[start:end]
                rows = here // self.top_k
                output = self.experts[expert](flat[rows])
                output.mul_(weight[here])
                collected.scatter_add_(0, rows[:, None].expand_as(output), output)
            start = end
        return collected


class LoopBlock(Block):
    router = WeightsFirst

    def choose(self, flat):
        return self.gate(flat)

    def forward(self, states):
        flat = states.reshape(-1, states.shape[-1])
        weight, index = self.choose(flat)
        collected = torch.zeros_like(flat)
        # (experts, k, tokens), so that rows come by their place among the k first and by token second.
        chosen = functional.one_hot(index, len(self.experts)).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            place, rows = torch.where(chosen[number])
            if len(rows):
                collected.index_add_(0, rows, expert(flat[rows]) * weight[rows, place, None])
        return collected.reshape(states.shape) + self.shared(states)


class LogitsBlock(LoopBlock):
    @staticmethod
    def router(config):
        return nn.Linear(config.hidden_size, config.n_routed_experts, bias=False)

    def choose(self, flat):
        return self.gate(flat).softmax(dim=-1).topk(self.top_k, dim=-1)


BLOCKS = {"sorted": SortedBlock, "loop": LoopBlock, "logits": LogitsBlock}


class Attention(nn.Module):
    def __init__(self, config, number):
        super().__init__()
        self.number, self.heads = number, config.num_attention_heads
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(config.hidden_size, config.hidden_size, bias=False))

    def forward(self, states, mask, cache):
        batch, tokens, width = states.shape
        shape = (batch, tokens, self.heads, width // self.heads)
        query, key, value = (
            getattr(self, name)(states).reshape(shape).transpose(1, 2) for name in ("q_proj", "k_proj", "v_proj")
        )
        if cache is not None:
            key, value = cache.update(key, value, self.number)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Layer(nn.Module):
    def __init__(self, config, number):
        super().__init__()
        self.self_attn = Attention(config, number)
        dense = number < config.first_dense
        self.mlp = MLP(config, config.intermediate_size) if dense else BLOCKS[config.block](config)
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, states, mask, cache):
        states = states + self.self_attn(self.input_layernorm(states), mask, cache)
        return states + self.mlp(self.post_attention_layernorm(states))


class ListedPreTrainedModel(PreTrainedModel):
    config_class = ListedConfig
    base_model_prefix = "model"
    _no_split_modules = ("Layer",)

    def _init_weights(self, module):
        if not isinstance(module, Norm):
            for parameter in module.parameters(recurse=False):
                nn.init.normal_(parameter, std=self.config.initializer_range)


class ListedModel(ListedPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, number) for number in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, use_cache=None, **others):
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        before = 0 if past_key_values is None else past_key_values.get_seq_length()
        batch, tokens = input_ids.shape
        if attention_mask is None:
            attention_mask = input_ids.new_ones(batch, before + tokens)
        # A token's place counts from the first that is no padding.
        places = (attention_mask.cumsum(1) - 1).clamp_min(0)[:, before:]
        states = self.embed_tokens(input_ids) + self.embed_positions(places)
        line = torch.arange(before + tokens, device=input_ids.device)
        causal = line[None, :] <= line[before:, None]
        seen = causal[None] & attention_mask[:, None, :].bool()
        # A padding token at the left sees itself, since a softmax over nothing is no number.
        seen = seen | (line[None, :] == line[before:, None])[None]
        cache = past_key_values if use_cache else None
        for layer in self.layers:
            states = layer(states, seen[:, None], cache)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(states), past_key_values=past_key_values)


class ListedForCausalLM(ListedPreTrainedModel, GenerationMixin):
    def __init__(self, config):
        super().__init__(config)
        self.model = ListedModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, use_cache=None, **others):
        outputs = self.model(input_ids, attention_mask, past_key_values, use_cache)
        logits = self.lm_head(outputs.last_hidden_state)
        return CausalLMOutputWithPast(logits=logits, past_key_values=outputs.past_key_values)
