"""One decoded token after another in eager PyTorch: the language model's geometry, random weights in bfloat16."""
import time

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu


def make(shape, device):
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return torch.randn(shape, dtype=dtype, device=device) * shape[-1] ** -0.5


def decode_seconds(config, device, context, rounds, steps):
    """Median seconds a token, after `context` cached ones"""
    leaves = {name: make(shape, device) for name, shape in config.shapes().items()
              if ".vision" not in name and "inv_freq" not in name}
    cache = [torch.zeros((2, 1, config.num_key_value_heads, context + (rounds + 2) * steps, config.head_size),
                         dtype=leaves["lm_head.weight"].dtype, device=device) for _ in range(config.num_hidden_layers)]
    half = torch.arange(0, config.head_size, 2, device=device) / config.head_size
    angles = torch.arange(cache[0].shape[3], device=device)[:, None] * config.rope_base ** -half
    token, length, times = torch.zeros((1, 1), dtype=torch.long, device=device), context, []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            start = wait(device)
            for _ in range(steps):
                token = step(config, leaves, cache, angles, token, length)
                length += 1
            times.append((wait(device) - start) / steps)
    return sorted(times[1:])[len(times[1:]) // 2]


def wait(device):
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def step(config, leaves, cache, angles, token, length):
    """The next token of (1, 1)"""
    H, G, d, eps = config.num_attention_heads, config.num_key_value_heads, config.head_size, config.rms_norm_eps
    x = leaves["model.embed_tokens.weight"][token]                                  # (1, 1, D)
    cos, sin = (f(angles[length]).to(x.dtype) for f in (torch.cos, torch.sin))

    def rotary(x):
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    for i, past in enumerate(cache):
        layer = f"model.layers.{i}."
        h = rms_norm(x, x.shape[-1:], leaves[layer + "input_layernorm.weight"], eps)
        qkv = linear(h, leaves[layer + "self_attn.language_expert_query_key_value.weight"])
        q, k, v = qkv.view(1, 1, H + 2 * G, d).transpose(1, 2).split([H, G, G], 1)
        past[0, :, :, length], past[1, :, :, length] = rotary(k)[:, :, 0], v[:, :, 0]
        keys, values = past[:, :, :, :length + 1]
        y = scaled_dot_product_attention(rotary(q), keys, values, enable_gqa=H != G)
        x = x + linear(y.transpose(1, 2).reshape(x.shape), leaves[layer + "self_attn.language_expert_dense.weight"])
        h = rms_norm(x, x.shape[-1:], leaves[layer + "post_attention_layernorm.weight"], eps)
        mlp = layer + "mlp.language_mlp."
        gate, up = linear(h, leaves[mlp + "gate_proj.weight"]), linear(h, leaves[mlp + "up_proj.weight"])
        x = x + linear(silu(gate) * up, leaves[mlp + "down_proj.weight"])
    x = rms_norm(x, x.shape[-1:], leaves["model.norm.weight"], eps)
    return linear(x, leaves["lm_head.weight"]).argmax(-1)
