"""The vision tower, EVA2-CLIP-E's vision transformer (Sun et al. 2023, arXiv 2303.15389) as CogVLM uses it.

Its blocks are post-norm: OpenAI's CLIP normalises what goes INTO attention and MLP, EVA2-CLIP-E what comes OUT of
them, before the residual is added: x + LN(attention(x)), then x + LN(mlp(x)). There is no norm before the first block,
and none after the last.
"""
from ..nn import ops
from ..nn.arrays import namespace
from ..nn.swap import op
from ..nn.trace import record, scope
from ..nn.tree import below


def shapes(config):
    """{name: shape} of the tower's parameters, below model.vision."""
    W, M, P, C = config.hidden_size, config.intermediate_size, config.patch_size, config.in_channels
    found = {"patch_embedding.cls_embedding": (1, W),
             "patch_embedding.position_embedding.weight": (config.num_positions, W),
             "patch_embedding.proj.weight": (W, C, P, P), "patch_embedding.proj.bias": (W,)}
    layer = {}
    for name, out, into in (("attention.query_key_value", 3 * W, W), ("attention.dense", W, W),
                            ("mlp.fc1", M, W), ("mlp.fc2", W, M)):
        layer |= {f"{name}.weight": (out, into), f"{name}.bias": (out,)}
    for name in ("input_layernorm", "post_attention_layernorm"):
        layer |= {f"{name}.weight": (W,), f"{name}.bias": (W,)}
    for i in range(config.num_hidden_layers):
        found |= below(f"transformer.layers.{i}", layer)
    return found


def vit(pixels, p, config, keep="all"):
    """The features of an image's patches                   pixels (B, 3, N, N) -> (B, P, W), W the tower's width

    CLS runs through all blocks and is dropped at the end. keep: what the blocks keep for the backward pass, see
    ops.checkpointed.
    """
    x, pull_embed = patch_embedding(pixels, p.patch_embedding, config)
    pulls = [None] * config.num_hidden_layers
    for i in range(len(pulls)):
        with scope(f"layer{i}"):
            x, pulls[i] = ops.checkpointed(block, x, p.transformer.layers[i], config, keep=keep)
    record("out", x)

    def pull(dy, g):
        xp = namespace(dy)
        dx = xp.concatenate([xp.zeros_like(dy[:, :1]), dy], 1)
        for i in reversed(range(len(pulls))):
            dx = pulls[i](dx, g.transformer.layers[i])
        pull_embed(dx, g.patch_embedding)
    return x[:, 1:], pull


@op
def patch_embedding(pixels, p, config):
    """[CLS; patches W^T + b] + positions                   (B, 3, N, N) -> (B, 1 + P, W)

    Dosovitskiy et al. 2020 (arXiv 2010.11929). CLS has a position too. A picture of another size than the position
    table's gets an interpolated table.
    """
    xp, B, grid = namespace(pixels), len(pixels), pixels.shape[-1] // config.patch_size
    squares, _ = ops.patches(pixels, config.patch_size)
    x, pull_proj = ops.linear(squares, p.proj.weight, p.proj.bias)                  # (B, P, W)
    record("patch_conv", x.swapaxes(1, 2).reshape(B, -1, grid, grid))
    table, pull_table = p.position_embedding.weight, None
    if len(table) != 1 + grid * grid:
        table, pull_table = ops.interpolate_positions(table, grid)
    x = xp.concatenate([xp.broadcast_to(p.cls_embedding, (B, *p.cls_embedding.shape)), x], 1) + table
    record("patch_embed", x)

    def pull(dx, g):
        dtable = dx.sum(0)
        g.position_embedding.add("weight", lambda: pull_table(dtable) if pull_table else dtable)
        g.add("cls_embedding", lambda: dx[:, 0].sum(0, keepdims=True))
        if g.trains("proj"):
            pull_proj(dx[:, 1:], g.proj)
    return x, pull


@op
def block(x, p, config):
    """x + LN(attention(x)), then x + LN(mlp(x))            (B, T, W) -> (B, T, W)"""
    eps = config.layer_norm_eps
    a, pull_attention = attention(x, p.attention, config.num_heads)
    record("attn_out", a)
    n1, pull_norm1 = ops.layer_norm(a, p.input_layernorm.weight, p.input_layernorm.bias, eps)
    record("attn_out_normed", n1)
    x1 = ops.residual(x, n1)
    m, pull_mlp = mlp(x1, p.mlp)
    record("mlp_out", m)
    n2, pull_norm2 = ops.layer_norm(m, p.post_attention_layernorm.weight, p.post_attention_layernorm.bias, eps)
    record("mlp_out_normed", n2)
    x2 = ops.residual(x1, n2)
    record("out", x2)

    def pull(dx2, g):
        dx1 = pull_mlp(pull_norm2(dx2, g.post_attention_layernorm), g.mlp)
        dx1 += dx2
        dx = pull_attention(pull_norm1(dx1, g.input_layernorm), g.attention)
        dx += dx1
        return dx
    return x2, pull


def attention(x, p, heads):
    """Multi-head self-attention of every patch to every patch, with biases                 (B, T, W) -> (B, T, W)

    The rows of query_key_value.weight are ordered (Q K V, heads, head size).
    """
    xp, (B, T, W) = namespace(x), x.shape
    qkv, pull_qkv = ops.linear(x, p.query_key_value.weight, p.query_key_value.bias)         # (B, T, 3W)
    record("qkv", qkv)
    q, k, v = qkv.reshape(B, T, 3, heads, W // heads).transpose(2, 0, 3, 1, 4)              # (B, H, T, d) each
    context, pull_attention = ops.attention(q, k, v, causal=False)
    context = context.swapaxes(1, 2).reshape(B, T, W)
    record("attn_ctx", context)
    y, pull_dense = ops.linear(context, p.dense.weight, p.dense.bias)

    def pull(dy, g):
        dcontext = pull_dense(dy, g.dense).reshape(B, T, heads, -1).swapaxes(1, 2)
        dqkv = xp.stack([dx.swapaxes(1, 2) for dx in pull_attention(dcontext)], 2)          # (B, T, 3, H, d)
        return pull_qkv(dqkv.reshape(B, T, 3 * W), g.query_key_value)
    return y, pull


def mlp(x, p):
    """y = gelu(x W_1^T + b_1) W_2^T + b_2                  (B, T, W) -> (B, T, W)"""
    h, pull_fc1 = ops.linear(x, p.fc1.weight, p.fc1.bias)
    record("fc1", h)
    a, pull_gelu = ops.gelu(h)
    y, pull_fc2 = ops.linear(a, p.fc2.weight, p.fc2.bias)
    return y, lambda dy, g: pull_fc1(pull_gelu(pull_fc2(dy, g.fc2)), g.fc1)
