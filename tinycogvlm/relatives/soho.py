"""SOHO's visual dictionary: each pixel of a feature map is told by the nearest of a few learned codes.

Huang et al. 2021 (arXiv 2104.03135, "Seeing Out of tHe bOx"). The codes are moved not by gradients but by an average
of the pixels that chose them; gradients pass the choice as if it were not there (straight-through, van den Oord et al. 2017,
arXiv 1711.00937). Then one code, wherever it occurs in the picture, is hidden and to be told from the rest: masked
visual modelling, which would otherwise need a detector's names.

    feature map -> 2 x 2 max pool -> 1 x 1 convolution, batch norm = x -> nearest code = q
    plain: W q + b + x      gated: s_0 (W q + b) + s_1 x, s = softmax of a 1 x 1 convolution of both
    hidden ones -> one vector; + 2-D sines; LN -> tokens

So, contrary to the paper, a token is not the code alone. The update takes place inside the forward pass, whose output has
the NEW codes at the places that chose the old ones.
"""
import math
from dataclasses import dataclass

from ..nn import ops
from ..nn.arrays import namespace, to_numpy
from ..nn.convolution import max_pool
from ..nn.more_ops import normalise
from ..nn.swap import op
from ..nn.tree import below
from .clip import conv_shapes, convolutions
from .registry import Case
from .transformer import dense, dense_shapes, layer_norm, norm_shapes

NORM_EPS = 1e-5
SMOOTHING = 1e-5                                        # added to how many pixels each code has
TINY = 1e-6
HIDDEN = -100                                           # the label of a pixel that is not to be told


@dataclass(frozen=True)
class Config:
    """The geometry of a dictionary and what surrounds it."""
    into: int                           # channels of the feature map
    width: int
    codes: int
    decay: float                        # how much of the averages an update keeps
    gated: bool


def dictionary_of(fields, gated):
    width = fields.whole("out_channels")
    if width % 4:
        fields.refuse("out_channels", width, "a multiple of 4, sine and cosine of two coordinates")
    return Config(fields.whole("in_channels"), width, fields.whole("num_tokens"),
                  fields.number("decay", 0.1, high=1), gated)


def shapes(config):
    """{name: shape} of every tensor, of the dictionary (vq) and the batch norms' averages as well"""
    D, K = config.width, config.codes
    found = conv_shapes("conv.conv", "conv.bn", D, config.into, 1) | norm_shapes("ln", D)
    found |= {"mask_emb.weight": (1, D), "vq.embed": (K, D), "vq.embed_avg": (K, D), "vq.cluster_size": (K,),
              "vq.cluster_sum": (K,), **dense_shapes("pos_line", D, D)}
    return found | (conv_shapes("gate_fc.conv", "gate_fc.bn", 2, 2 * D, 1) if config.gated else {})


# ------------------------------------------------------------------------------------------------------ the dictionary

def nearest(x, codes):
    """Which code is nearest to each row                    x (N, D), codes (K, D) -> (N,)

    That is the one with the smallest |x - c|^2 = |x|^2 - 2 x c + |c|^2, thus with the largest x c - |c|^2 / 2.
    """
    return (x @ codes.T - (codes * codes).sum(1) / 2).argmax(1)


@op
def way(x, codes, chosen):
    """From each row to its code, a constant for the gradient           x (N, D), codes (K, D), chosen (N,) -> (N, D)"""
    return codes[chosen] - x


def quantised(x, codes, chosen):
    """y = codes[chosen] as x + constant, so that the gradient goes to x unchanged (straight-through)    -> (N, D)"""
    return x + way(x, codes, chosen), lambda dy: dy


@op
def updated(x, chosen, vq, decay):
    """The dictionary after a batch: {"embed", "embed_avg", "cluster_size", "cluster_sum"}       x (N, D), chosen (N,)

    n <- decay n + (1 - decay) (pixels that chose the code), m <- decay m + (1 - decay) (their sum), code = m / n with n
    smoothed a little towards the mean (Laplace). A code that nothing has chosen yet becomes 0.
    """
    xp, K = namespace(x), len(vq.embed)
    one_hot = (chosen[:, None] == xp.arange(K)).astype(x.dtype)                     # (N, K)
    count = one_hot.sum(0)
    size = decay * vq.cluster_size + (1 - decay) * count
    average = decay * vq.embed_avg + (1 - decay) * (one_hot.T @ x)
    smooth = (size + SMOOTHING) / (size.sum() + K * SMOOTHING) * size.sum()
    return {"embed": average / smooth[:, None], "embed_avg": average, "cluster_size": size,
            "cluster_sum": vq.cluster_sum + count}


# ------------------------------------------------------------------------------------------------------------- tokens

def visible(sizes, padded, grid, xp):
    """Which pixels of the map are picture, not padding     sizes [(height, width), ...] -> (B, h, w)

    padded: height and width of the padded pictures. A pixel is where its upper left corner is, as torch's nearest
    interpolation has it.
    """
    (h, w), (height, width) = grid, padded
    rows, columns = xp.arange(h) * height // h, xp.arange(w) * width // w
    return xp.stack([(rows < bottom)[:, None] & (columns < right) for bottom, right in sizes])


def sines(seen, D, like):
    """Positions: sines and cosines of the row, then of the column       seen (B, h, w) -> (B, h, w, D)

    Rows and columns are counted over what is seen and scaled to 0 ... 2 pi, so that the picture's size does not matter.
    """
    xp, half = namespace(seen), D // 2
    steps = 10000.0 ** (2 * (xp.arange(half) // 2) / half)
    parts = []
    for axis in (1, 2):
        place = seen.cumsum(axis).astype(float)
        last = place[:, -1:] if axis == 1 else place[:, :, -1:]
        angles = (place / (last + TINY) * 2 * math.pi)[..., None] / steps           # (B, h, w, D / 2)
        parts.append(xp.where(xp.arange(half) % 2 == 0, xp.sin(angles), xp.cos(angles)))
    return xp.concatenate(parts, -1).astype(like.dtype, copy=False)


def to_tell(chosen, seen, place, rows):
    """Labels of masked visual modelling: where the code at `place` occurs, that code; HIDDEN elsewhere

    chosen (B, h, w) -> (B, h, w). seen: see `visible`; place: the number of a pixel, drawn once for the batch;
    rows (B,): in which pictures, each with a probability of 0.015. If the place is padding there is nothing to tell.
    """
    xp, w = namespace(chosen), chosen.shape[2]
    drawn = chosen[:, place // w, place % w, None, None]
    masked = (chosen == drawn) & seen & (seen[:, place // w, place % w] & (rows != 0))[:, None, None]
    return xp.where(masked, chosen, HIDDEN)


def mixed(line, x, p):
    """s_0 line + s_1 x, s = softmax of a 1 x 1 convolution of both; line + x without p.gate_fc    (B, h, w, D)"""
    if not p.get("gate_fc"):
        return line + x, lambda dy, g: (dy, dy)
    xp, D = namespace(x), x.shape[-1]
    both = xp.concatenate([line, x], -1).transpose(0, 3, 1, 2)
    z, pull_gate = convolutions(both, p, [("gate_fc.conv", "gate_fc.bn", {})], relu=False)
    s, pull_softmax = ops.softmax(z.transpose(0, 2, 3, 1))                          # (B, h, w, 2)

    def pull(dy, g):
        ds = xp.stack([(dy * line).sum(-1), (dy * x).sum(-1)], -1)
        dboth = pull_gate(pull_softmax(ds).transpose(0, 3, 1, 2), g).transpose(0, 2, 3, 1)
        return dy * s[..., :1] + dboth[..., :D], dy * s[..., 1:] + dboth[..., D:]
    return line * s[..., :1] + x * s[..., 1:], pull


@dataclass
class Seen:
    """What `tokens` gives beside the tokens."""
    chosen: object                      # (B, h, w): each pixel's code
    quantised: object                   # (B h w, D): the codes themselves
    labels: object                      # (B, h, w): see to_tell
    dictionary: dict                    # see `updated`; as it was where nothing is learned


def tokens(features, seen, place, rows, p, config, learn=False):
    """Tokens of a feature map, some of them masked         (B, C, N, M) -> (B, h w, D), Seen

    seen: see `visible`; place, rows: see to_tell. learn: whether the dictionary is updated. pull(dy, g) -> dfeatures.
    """
    xp, D = namespace(features), config.width
    few, pull_pool = max_pool(features, 2)
    x, pull_conv = convolutions(few, p, [("conv.conv", "conv.bn", {})], relu=False)
    x = x.transpose(0, 2, 3, 1)                                                     # (B, h, w, D)
    flat = x.reshape(-1, D)
    chosen = nearest(flat, p.vq.embed)
    dictionary = updated(flat, chosen, p.vq, config.decay) if learn else {"embed": p.vq.embed}
    q, pull_quantised = quantised(flat, dictionary["embed"], chosen)
    line, pull_line = dense(q.reshape(x.shape), p, "pos_line.")
    y, pull_mixed = mixed(line, x, p)
    chosen = chosen.reshape(x.shape[:3])
    labels = to_tell(chosen, seen, place, rows)
    masked = (labels != HIDDEN)[..., None]
    y = xp.where(masked, p.mask_emb.weight[0], y) + sines(seen, D, x)
    y, pull_norm = layer_norm(y.reshape(len(y), -1, D), p, "ln", NORM_EPS)

    def pull(dy, g):
        dy = pull_norm(dy, g).reshape(x.shape)
        g.add("mask_emb.weight", lambda: (dy * masked).sum((0, 1, 2))[None])
        dline, dx = pull_mixed(dy * ~masked, g)
        dx = dx + pull_quantised(pull_line(dline, g).reshape(flat.shape)).reshape(x.shape)
        return pull_pool(pull_conv(dx.transpose(0, 3, 1, 2), g))
    return y, Seen(chosen, q, labels, dictionary), pull


def masked_visual_loss(hidden, labels, codes):
    """Cross entropy of the cosines between each masked pixel's hidden state and the codes       -> scalar, cosines

    hidden (B, P, D), labels (B, P): a code's number or HIDDEN; codes (K, D) are constants -> cosines (B, P, K).
    """
    xp, count = namespace(hidden), int((labels != HIDDEN).sum())
    unit, pull_unit = normalise(hidden)
    lengths = xp.sqrt((codes * codes).sum(1, keepdims=True))
    directions = codes / xp.maximum(lengths, 1e-12)         # 0 where a code is 0
    cosines = unit @ directions.T
    if not count:
        return 0.0, cosines, lambda dloss: xp.zeros_like(hidden)
    loss, pull_loss = ops.cross_entropy(cosines.reshape(-1, len(codes)), labels.reshape(-1))
    share = count / (count + TINY)

    def pull(dloss):
        return pull_unit(pull_loss(dloss * share).reshape(cosines.shape) @ directions)
    return loss * share, cosines, pull


# -------------------------------------------------------------------------------------------------------- golden case

def of_case(fields, _):
    """({name: Config} of both, height and width of the padded pictures, those of each picture)"""
    side = fields.whole("pad_shape")
    return {name: dictionary_of(fields, name == "gate") for name in ("plain", "gate")}, (side, side), tuple(
        map(tuple, fields.get("img_shapes")))


def case_shapes(config):
    found = {}
    for name, one in config[0].items():
        found |= below(name, shapes(one))
    return found


def case(x, p, config):
    configs, padded, sizes = config
    features, y, pulls = x["features"], {}, {}
    xp, grid = namespace(features), [side // 2 for side in features.shape[2:]]
    seen = visible(sizes, padded, grid, xp)
    for name, one in configs.items():
        for learn, mode in ((False, "eval"), (True, "train")):
            row, beside, pull_tokens = tokens(features, seen, int(x["mask_position"]), x["mask_row"], p[name], one,
                                              learn)
            labels = beside.labels.reshape(len(row), -1)
            y |= {f"{name}/{mode}/{what}": array for what, array in (
                ("tokens", row), ("indices", beside.chosen), ("quantized", beside.quantised), ("mvm_labels", labels),
                ("visual_mask", seen.reshape(len(row), -1).astype(int)))}
        y |= {f"{name}/train/{what}_after": array for what, array in beside.dictionary.items()}
        y[f"{name}/loss_mvm"], y[f"{name}/mvm_scores"], pull_loss = masked_visual_loss(
            x["fusion"], labels, beside.dictionary["embed"])
        pulls[name] = pull_tokens, pull_loss

    def pull(dy, g):
        dfeatures = dfusion = 0
        for name, (pull_tokens, pull_loss) in pulls.items():
            dfeatures = dfeatures + pull_tokens(dy[f"{name}/train/tokens"], g[name])
            dfusion = dfusion + pull_loss(to_numpy(dy[f"{name}/loss_mvm"]).item())
        return {"features": dfeatures, "fusion": dfusion}
    return y, pull


CASES = {"soho_dictionary": Case(of_case, case_shapes, case, ("*.running_*", "*.vq.*"))}
