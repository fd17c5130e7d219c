"""The paper's heart: every layer has two experts, and each token is computed with the weights of its own kind.

Attention runs over all tokens together; what the visual expert adds is its own Q, K, V, output and FFN weights for
image tokens (Wang et al. 2023, section 2.2).
"""
from ..nn import ops
from ..nn.arrays import namespace
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import below


def shapes(config):
    """{name: shape} of both experts' parameters, below one of model.layers."""
    D, F = config.hidden_size, config.intermediate_size
    qkv, found = D + 2 * config.num_key_value_heads * config.head_size, {}
    for expert in ("vision", "language"):
        found |= below(f"self_attn.{expert}_expert_query_key_value", {"weight": (qkv, D)})
        found |= below(f"self_attn.{expert}_expert_dense", {"weight": (D, D)})
        found |= below(f"mlp.{expert}_mlp", {"gate_proj.weight": (F, D), "up_proj.weight": (F, D),
                                             "down_proj.weight": (D, F)})
    if config.traits.qkv_bias:
        found["self_attn.vision_expert_query_key_value.bias"] = (qkv,)
    return found


@op
def routed(layer, x, p, name, route):
    """y_i = layer(x_i, weights of token i's expert)        x (B, T, I) -> (B, T, O)

    `layer(rows, p)` works on rows (n, I); the experts' weights are p.vision_<name> and p.language_<name>. An expert
    without a token is not touched, so a text needs no vision weights at all.
    """
    xp, rows, parts = namespace(x), x.reshape(-1, x.shape[-1]), []
    for expert, tokens in route.experts:
        y, pull = layer(rows[tokens], p[f"{expert}_{name}"])
        parts.append((f"{expert}_{name}", tokens, y, pull))
    if len(parts) > 1:
        y = xp.empty((len(rows), y.shape[-1]), y.dtype)
        for _, tokens, part, _ in parts:
            y[tokens] = part
    pulls = [(expert, tokens, pull) for expert, tokens, _, pull in parts]

    def pull(dy, g):
        dy = dy.reshape(len(rows), -1)
        dx = xp.empty(rows.shape, dy.dtype)
        for expert, tokens, pull_expert in pulls:
            dx[tokens] = pull_expert(dy[tokens], g[expert])
        return dx.reshape(x.shape)
    return y.reshape(*x.shape[:-1], -1), pull


def dense(rows, p):
    """Rows through one expert's matrix; only the vision expert's QKV of CogVLM2 has a bias."""
    return ops.linear(rows, p.weight, p.get("bias"))


def mlp(rows, p):
    """down (silu(gate x) * up x)                           (n, D) -> (n, D)"""
    gate, pull_gate = ops.linear(rows, p.gate_proj.weight)
    up, pull_up = ops.linear(rows, p.up_proj.weight)
    a, pull_swiglu = ops.swiglu(gate, up)
    y, pull_down = ops.linear(a, p.down_proj.weight)

    def pull(dy, g):
        dgate, dup = pull_swiglu(pull_down(dy, g.down_proj))
        return pull_gate(dgate, g.gate_proj) + pull_up(dup, g.up_proj)
    return y, pull


@op
def split_heads(qkv, H, G):
    """The H + 2G heads of each token: first queries, then keys, then values

    (B, T, (H + 2G) d) -> (B, H, T, d), (B, G, T, d), (B, G, T, d)
    """
    heads = qkv.reshape(*qkv.shape[:2], H + 2 * G, -1).swapaxes(1, 2)               # (B, H + 2G, T, d)
    return heads[:, :H], heads[:, H:H + G], heads[:, H + G:]


def attention(x, p, route, rope, config, cache=None):
    """Q, K, V from each token's expert, attention over all tokens, output from each token's expert.

    x (B, T, D); rope: the (cos, sin) of rotary; cache: a decoder.LayerCache that gives keys and values their past.
    """
    xp, (B, T, D) = namespace(x), x.shape
    H, G, d = config.num_attention_heads, config.num_key_value_heads, config.head_size
    qkv, pull_qkv = routed(dense, x, p, "expert_query_key_value", route)            # (B, T, (H + 2G) d)
    q, k, v = split_heads(qkv, H, G)                                                # (B, H, T, d), (B, G, T, d) twice
    record("q", q), record("k", k), record("v", v)
    q, pull_q = ops.rotary(q, *rope)
    k, pull_k = ops.rotary(k, *rope)
    record("q_rope", q), record("k_rope", k)
    keys, values, mask = cache.append(k, v) if cache else (k, v, route.mask)
    context, pull_attention = ops.attention(q, keys, values, mask)             # (B, H, T, d)
    context = context.swapaxes(1, 2).reshape(B, T, D)
    record("attn_ctx", context)
    y, pull_dense = routed(dense, context, p, "expert_dense", route)
    record("attn_out", y)

    def pull(dy, g):
        dcontext = pull_dense(dy, g).reshape(B, T, H, d).swapaxes(1, 2)
        dq, dk, dv = pull_attention(dcontext)
        dheads = xp.concatenate([pull_q(dq), pull_k(dk), dv], 1)                    # (B, H + 2G, T, d)
        return pull_qkv(dheads.swapaxes(1, 2).reshape(B, T, -1), g)
    return y, pull
