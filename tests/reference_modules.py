"""CogVLM v1 as PyTorch modules that carry the original's names: what benchmarks/reference_dump.py hooks into.

Written from the equations, for test_benchmarks.py. It has the original's interface (forward, build_position_ids,
get_expert_mask, rotary tables in cos_cached) as far as the dump uses it.
"""
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from tinycogvlm.model.route import position_ids, vision_expert_mask


def build_position_ids(types, mask):
    return torch.from_numpy(position_ids(types.numpy(), mask.numpy()))


def get_expert_mask(types):
    vision = torch.from_numpy(vision_expert_mask(types.numpy()))
    return vision, ~vision


class Linear(nn.Linear):
    def __init__(self, inputs, outputs, bias=False):
        super().__init__(inputs, outputs, bias)


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, hidden_states):
        return hidden_states * torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class PatchEmbedding(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.proj = nn.Conv2d(v.in_channels, v.hidden_size, v.patch_size, v.patch_size)
        self.cls_embedding = nn.Parameter(torch.zeros(1, v.hidden_size))
        self.position_embedding = nn.Embedding(v.grid ** 2 + 1, v.hidden_size)

    def forward(self, images):
        x = self.proj(images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_embedding.expand(len(x), -1, -1), x], 1) + self.position_embedding.weight


class VisionAttention(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.heads = v.num_heads
        self.query_key_value = Linear(v.hidden_size, 3 * v.hidden_size, True)
        self.dense = Linear(v.hidden_size, v.hidden_size, True)

    def forward(self, x):
        B, T, W = x.shape
        q, k, v = self.query_key_value(x).reshape(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.dense(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, W))


class VisionMLP(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.fc1 = Linear(v.hidden_size, v.intermediate_size, True)
        self.fc2 = Linear(v.intermediate_size, v.hidden_size, True)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class VisionLayer(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(v.hidden_size, v.layer_norm_eps)
        self.attention, self.mlp = VisionAttention(v), VisionMLP(v)
        self.post_attention_layernorm = nn.LayerNorm(v.hidden_size, v.layer_norm_eps)

    def forward(self, hidden_states):
        x = hidden_states + self.input_layernorm(self.attention(hidden_states))
        return x + self.post_attention_layernorm(self.mlp(x))


class Transformer(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(v) for _ in range(v.num_hidden_layers))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class GLU(nn.Module):
    def __init__(self, c):
        super().__init__()
        D, N = c.hidden_size, c.intermediate_size
        self.linear_proj, self.norm1 = Linear(c.vision.hidden_size, D), nn.LayerNorm(D)
        self.gate_proj, self.dense_h_to_4h, self.dense_4h_to_h = Linear(D, N), Linear(D, N), Linear(N, D)

    def forward(self, x):
        x = F.gelu(self.norm1(self.linear_proj(x)))
        return self.dense_4h_to_h(F.silu(self.gate_proj(x)) * self.dense_h_to_4h(x))


class Vision(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.patch_embedding, self.transformer = PatchEmbedding(c.vision), Transformer(c.vision)
        self.linear_proj = GLU(c)
        self.boi, self.eoi = (nn.Parameter(torch.zeros(1, 1, c.hidden_size)) for _ in range(2))

    def forward(self, images):
        x = self.linear_proj(self.transformer(self.patch_embedding(images))[:, 1:])
        return torch.cat([self.boi.expand(len(x), -1, -1), x, self.eoi.expand(len(x), -1, -1)], 1)


class Rotary(nn.Module):
    def __init__(self, d, positions=64):
        super().__init__()
        self.register_buffer("inv_freq", torch.zeros(d // 2))
        self.positions = positions

    def forward(self, x, position_ids):
        angles = torch.arange(self.positions)[:, None] * self.inv_freq
        angles = torch.cat([angles, angles], -1)[:, None]
        self.cos_cached, self.sin_cached = angles.cos(), angles.sin()                       # (S, 1, d)
        cos, sin = (table[position_ids].transpose(1, 2) for table in (self.cos_cached, self.sin_cached))
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin


class ExpertAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.rotary_emb = c.num_attention_heads, Rotary(c.head_size)
        for expert in ("vision", "language"):
            setattr(self, f"{expert}_expert_query_key_value", Linear(c.hidden_size, 3 * c.hidden_size))
            setattr(self, f"{expert}_expert_dense", Linear(c.hidden_size, c.hidden_size))

    def forward(self, hidden_states, token_type_ids, position_ids):
        B, T, D = hidden_states.shape
        vision, _ = get_expert_mask(token_type_ids)
        choose = lambda x, a, b: torch.where(vision[..., None], a(x), b(x))
        qkv = choose(hidden_states, self.vision_expert_query_key_value, self.language_expert_query_key_value)
        q, k, v = qkv.reshape(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.rotary_emb(q, position_ids), self.rotary_emb(k, position_ids)
        context = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, D)
        return choose(context, self.vision_expert_dense, self.language_expert_dense), None


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        D, N = c.hidden_size, c.intermediate_size
        self.gate_proj, self.up_proj, self.down_proj = Linear(D, N), Linear(D, N), Linear(N, D)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class ExpertMLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.language_mlp, self.vision_mlp = MLP(c), MLP(c)

    def forward(self, x, token_type_ids):
        vision, _ = get_expert_mask(token_type_ids)
        return torch.where(vision[..., None], self.vision_mlp(x), self.language_mlp(x))


class DecoderLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn, self.mlp = ExpertAttention(c), ExpertMLP(c)
        self.input_layernorm, self.post_attention_layernorm = (RMSNorm(c.hidden_size, c.rms_norm_eps) for _ in range(2))

    def forward(self, hidden_states, token_type_ids, position_ids):
        x = hidden_states + self.self_attn(self.input_layernorm(hidden_states), token_type_ids, position_ids)[0]
        return x + self.mlp(self.post_attention_layernorm(x), token_type_ids), None


class CogVLMModel(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(c) for _ in range(c.num_hidden_layers))
        self.norm, self.vision = RMSNorm(c.hidden_size, c.rms_norm_eps), Vision(c)

    def forward(self, input_ids, token_type_ids, attention_mask, images):
        x = self.embed_tokens(input_ids)
        x = x.masked_scatter(token_type_ids[..., None] > 0, self.vision(images))
        positions = build_position_ids(token_type_ids, attention_mask)
        for layer in self.layers:                           # the original passes keywords
            x = layer(hidden_states=x, token_type_ids=token_type_ids, position_ids=positions)[0]
        return self.norm(x)


class CogVLMForCausalLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.model, self.lm_head = CogVLMModel(config), Linear(config.hidden_size, config.vocab_size)

    def forward(self, **inputs):
        return SimpleNamespace(logits=self.lm_head(self.model(**inputs)))
