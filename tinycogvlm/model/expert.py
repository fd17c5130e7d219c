"""The visual expert, the heart of CogVLM: every block has two sets of weights, and a token's kind chooses between them.

Attention runs over all tokens together; image tokens have Q, K, V, output and MLP weights of their own (Wang et al.
2023, arXiv 2311.03079, section 2.2).
"""
from ..nn import ops
from ..nn.arrays import namespace
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import below


def shapes(config):
    """{name: shape} of both experts' parameters, below model.layers.<i>"""
    D, F = config.hidden_size, config.intermediate_size
    qkv, found = D + 2 * config.num_key_value_heads * config.head_size, {}
    for expert in config.experts:
        found |= below(f"self_attn.{expert}_expert_query_key_value", {"weight": (qkv, D)})
        found |= below(f"self_attn.{expert}_expert_dense", {"weight": (D, D)})
        found |= below(f"mlp.{expert}_mlp", {"gate_proj.weight": (F, D), "up_proj.weight": (F, D),
                                             "down_proj.weight": (D, F)})
    if config.traits.qkv_bias:
        found["self_attn.vision_expert_query_key_value.bias"] = (qkv,)
    if config.rank:
        for name, (O, I) in [(name, shape) for name, shape in found.items() if "vision_" in name]:
            path = name.removesuffix(".weight")
            found |= {f"{path}.lora_A.weight": (config.rank, I), f"{path}.lora_B.weight": (O, config.rank)}
    return found


@op
def routed(layer, x, p, name, route):
    """y_i = layer(x_i, weights of token i's expert)        x (B, T, I) -> (B, T, O)

    `layer(rows, p)` maps rows (n, I) -> (n, O) and returns its pullback; the experts' weights are p.vision_<name> and
    p.language_<name>. The weights of an expert without a token are not read: a text needs no vision weights.
    """
    rows = x.reshape(-1, x.shape[-1])
    y, pulls = None, []
    for expert, tokens in route.experts:
        path = f"{expert}_{name}"
        part, pull_part = layer(rows[tokens], p[path])
        if y is None:
            y = namespace(x).empty((len(rows), part.shape[-1]), part.dtype)
        y[tokens] = part
        pulls.append((path, tokens, pull_part))

    def pull(dy, g):
        dy = dy.reshape(len(rows), -1)
        dx = namespace(dy).empty(rows.shape, dy.dtype)
        for path, tokens, pull_part in pulls:
            dx[tokens] = pull_part(dy[tokens], g[path])
        return dx.reshape(x.shape)
    return y.reshape(*x.shape[:-1], -1), pull


def dense(rows, p):
    """y = x W^T, and + b where the checkpoint has one (only the vision expert's QKV of CogVLM2)     (n, I) -> (n, O)

    Of a low rank (Config.rank) y = x W^T + (x A^T) B^T: W is then the language expert's, and A (r, I) and B (O, r) say
    by how much the vision expert differs from it, as in LoRA (Hu et al. 2021, arXiv 2106.09685).
    """
    y, pull = ops.linear(rows, p.weight, p.get("bias"))
    if p.get("lora_A") is None:
        return y, pull
    low, pull_a = ops.linear(rows, p.lora_A.weight)
    difference, pull_b = ops.linear(low, p.lora_B.weight)
    return y + difference, lambda dy, g: pull(dy, g) + pull_a(pull_b(dy, g.lora_B), g.lora_A)


def mlp(rows, p):
    """y = (silu(x W_gate^T) * x W_up^T) W_down^T           (n, D) -> (n, D)

    The SwiGLU feed-forward network of LLaMA (Shazeer 2020, arXiv 2002.05202), without biases.
    """
    gate, pull_gate = dense(rows, p.gate_proj)
    up, pull_up = dense(rows, p.up_proj)
    a, pull_swiglu = ops.swiglu(gate, up)
    y, pull_down = dense(a, p.down_proj)

    def pull(dy, g):
        dgate, dup = pull_swiglu(pull_down(dy, g.down_proj))
        return pull_gate(dgate, g.gate_proj) + pull_up(dup, g.up_proj)
    return y, pull


@op
def split_heads(qkv, H, G):
    """The heads of each token, H of queries, then G of keys, then G of values

    qkv (B, T, (H + 2G) d) -> q (B, H, T, d), k (B, G, T, d), v (B, G, T, d)
    """
    heads = qkv.reshape(*qkv.shape[:2], H + 2 * G, -1).swapaxes(1, 2)               # (B, H + 2G, T, d)
    return heads[:, :H], heads[:, H:H + G], heads[:, H + G:]


def attention(x, p, route, rope, config, cache=None):
    """Self-attention: Q, K, V by each token's expert, attention over all tokens, output by each token's expert.

    x (B, T, D) -> (B, T, D). route: Route. rope: cos and sin (B, T, d/2), of decoder.Rotary. cache: decoder.LayerCache,
    which puts the keys and values of earlier tokens before these; without it there are none.
    """
    xp, (B, T, D) = namespace(x), x.shape
    H, G, d = config.num_attention_heads, config.num_key_value_heads, config.head_size
    qkv, pull_qkv = routed(dense, x, p, "expert_query_key_value", route)            # (B, T, (H + 2G) d)
    q, k, v = split_heads(qkv, H, G)                                                # (B, H, T, d), (B, G, T, d) twice
    record("q", q)
    record("k", k)
    record("v", v)
    q, pull_q = ops.rotary(q, *rope)
    k, pull_k = ops.rotary(k, *rope)
    record("q_rope", q)
    record("k_rope", k)
    keys, values, mask = cache.append(k, v) if cache else (k, v, route.mask)
    context, pull_attention = ops.attention(q, keys, values, mask)                  # (B, H, T, d)
    context = context.swapaxes(1, 2).reshape(B, T, D)
    record("attn_ctx", context)
    y, pull_dense = routed(dense, context, p, "expert_dense", route)
    record("attn_out", y)

    def pull(dy, g):
        dcontext = pull_dense(dy, g).reshape(B, T, H, d).swapaxes(1, 2)
        dq, dk, dv = (d[:, :, -T:] for d in pull_attention(dcontext))               # what the cache holds is constant
        dheads = xp.concatenate([pull_q(dq), pull_k(dk), dv], 1)                    # (B, H + 2G, T, d)
        return pull_qkv(dheads.swapaxes(1, 2).reshape(B, T, -1), g)
    return y, pull
