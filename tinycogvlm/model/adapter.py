"""From the vision tower's features to the language model's embedding space: convolution, GLU, boi and eoi.

Wang et al. 2023 (arXiv 2311.03079), "MLP adapter"; the convolution is CogVLM2's (Hong et al. 2024, arXiv 2408.16500).
"""
from ..nn import ops
from ..nn.arrays import namespace
from ..nn.swap import op
from ..nn.trace import record, scope
from ..nn.tree import below
from . import vit

NORM_EPS = 1e-5                                         # the reference's, whatever config.json says of other norms


def shapes(config):
    """{name: shape} of all parameters below model.vision: the tower's, then the adapter's."""
    D, F, W, n = config.hidden_size, config.intermediate_size, config.vision.hidden_size, config.traits.pooling
    found = vit.shapes(config.vision) | own_shapes(D, F, W)
    if n > 1:
        found |= {"conv.weight": (W, W, n, n), "conv.bias": (W,)}
    return found


def own_shapes(D, F, W):
    """{name: shape} of the GLU from W numbers to D, F inside, and of both ends"""
    return below("linear_proj", {
        "linear_proj.weight": (D, W), "norm1.weight": (D,), "norm1.bias": (D,), "gate_proj.weight": (F, D),
        "dense_h_to_4h.weight": (F, D), "dense_4h_to_h.weight": (D, F)}) | {"boi": (1, 1, D), "eoi": (1, 1, D)}


@op
def image_tokens(pixels, p, config, keep="all"):
    """An image's tokens in the sequence: boi, patches, eoi                 pixels (B, 3, N, N) -> (B, P + 2, D)

    p: the parameters below model.vision. keep: see ops.checkpointed, of the tower's blocks.
    """
    with scope("vit"):
        x, pull_vit = vit.vit(pixels, p, config.vision, keep)
        x, pull_conv = convolution(x, p.conv) if config.traits.pooling > 1 else (x, None)
    with scope("adapter"):
        x, pull_glu = glu(x, p.linear_proj)
        record("out", x)
    x, pull_ends = between_ends(x, p)
    with scope("vision"):
        record("out", x)

    def pull(dy, g):
        dx = pull_ends(dy, g)
        if not g.trains("linear_proj", "conv", "transformer", "patch_embedding"):
            return
        dx = pull_glu(dx, g.linear_proj)
        if pull_conv:
            dx = pull_conv(dx, g.conv)
        if g.trains("transformer", "patch_embedding"):      # a frozen tower costs nothing
            pull_vit(dx, g)
    return x, pull


@op
def between_ends(x, p):
    """boi, x, eoi                                          (B, P, D) -> (B, P + 2, D)"""
    xp, one_each = namespace(x), (len(x), 1, x.shape[-1])
    y = xp.concatenate([xp.broadcast_to(p.boi, one_each), x, xp.broadcast_to(p.eoi, one_each)], 1)

    def pull(dy, g):
        g.add("boi", lambda: dy[:, :1].sum(0, keepdims=True))
        g.add("eoi", lambda: dy[:, -1:].sum(0, keepdims=True))
        return dy[:, 1:-1]
    return y, pull


def convolution(x, p):
    """CogVLM2's 2x2 convolution of stride 2 over the grid of patches            (B, n^2, W) -> (B, (n // 2)^2, W)

    Where n is odd, the last row and column of patches are dropped.
    """
    B, P, W = x.shape
    n = int(P ** 0.5)
    squares, pull_patches = ops.patches(x.swapaxes(1, 2).reshape(B, W, n, n), 2)
    y, pull_linear = ops.linear(squares, p.weight, p.bias)
    record("conv", y.swapaxes(1, 2).reshape(B, W, n // 2, n // 2))
    return y, lambda dy, g: pull_patches(pull_linear(dy, g)).reshape(B, W, P).swapaxes(1, 2)


@op
def glu(x, p):
    """h = gelu(LN(x W_in^T)), y = (silu(h W_gate^T) * h W_up^T) W_down^T     (B, P, W) -> (B, P, D), no biases"""
    x, pull_in = ops.linear(x, p.linear_proj.weight)
    record("linear_proj", x)
    x, pull_norm = ops.layer_norm(x, p.norm1.weight, p.norm1.bias, NORM_EPS)
    record("norm1", x)
    h, pull_gelu = ops.gelu(x)
    gate, pull_gate = ops.linear(h, p.gate_proj.weight)
    up, pull_up = ops.linear(h, p.dense_h_to_4h.weight)
    a, pull_swiglu = ops.swiglu(gate, up)
    y, pull_down = ops.linear(a, p.dense_4h_to_h.weight)

    def pull(dy, g):
        dgate, dup = pull_swiglu(pull_down(dy, g.dense_4h_to_h))
        dh = pull_gate(dgate, g.gate_proj) + pull_up(dup, g.dense_h_to_4h)
        return pull_in(pull_norm(pull_gelu(dh), g.norm1), g.linear_proj)
    return y, pull
