"""NFNet: a ResNet without normalisation (Brock et al. 2021, arXiv 2102.06171), the eye of Flamingo.

Three things stand in for batch norm. The weights are standardised whenever they are used, so that a convolution keeps
the variance of what comes in; activations are multiplied by gamma, which makes up for the variance they take; and each
block divides what it reads by the standard deviation that is expected there, and adds a fifth of what it made. (The
fourth, adaptive gradient clipping, is train.loop.optimizer.adaptively_clipped.) Names are timm's; DeepMind's own, with
other axes and another epsilon, are translated at the end of this file.
"""
import math
from dataclasses import dataclass

from ..nn import activations, ops
from ..nn.arrays import namespace
from ..nn.convolution import average_pool, convolution
from ..nn.swap import op
from ..nn.trace import record, recording
from ..nn.tree import Gradients, Params, below
from .registry import Case
from .transformer import at, dense, dense_shapes

# {name: (function, gamma = 1 / the standard deviation of f(x) where x is standard normal)}
ACTIVATIONS = {"gelu": (ops.gelu, 1.7015043497085571), "gelu_tanh": (activations.gelu_tanh, 1.7015043497085571),
               "relu": (activations.relu, 1.7139588594436646), "silu": (ops.silu, 1.7881293296813965)}
STEM = 2, 1, 1, 2                                       # strides of the stem's convolutions
EXCITED = 2                                             # what squeeze-and-excitation's result is multiplied by


@dataclass(frozen=True)
class Config:
    """The geometry of a normaliser-free ResNet."""
    stem: tuple                         # channels of its convolutions
    widths: tuple                       # channels of each stage
    depths: tuple                       # blocks in each stage
    bottlenecks: tuple                  # for each stage, channels inside a block, of those that it returns
    groups: tuple                       # for each stage, channels in a group of a 3 x 3 convolution
    excitation: float                   # channels inside squeeze-and-excitation, of the block's
    features: int                       # channels after the last convolution
    classes: int
    alpha: float                        # the share of a block that is added
    activation: str                     # one of ACTIVATIONS
    eps: float                          # of the standardisation:
    floor: bool                         # the variance times fan-in is at least eps; else eps is added to the variance
    gamma_in_weights: bool = False      # gamma is a factor of every convolution, not of the activation
    same: bool = True                   # strided convolutions pad as TensorFlow does, more below and to the right


def timm(fields):
    """Config of timm's NfCfg, with the pictures' number of classes and the standardisation's epsilon."""
    stem, excitation, depths = fields.whole("stem_chs"), fields.group("attn_kwargs"), fields.numbers("depths")
    fields.one_of("stem_type", ("deep_quad",))
    fields.one_of("attn_layer", ("se",))
    return Config(
        tuple(stem // share for share in (8, 4, 2, 1)), fields.numbers("channels"), depths,
        (fields.number("bottle_ratio", 0.5),) * len(depths), (fields.whole("group_size"),) * len(depths),
        excitation.number("rd_ratio", 0.5),
        fields.whole("num_features"), fields.whole("num_classes", 1000), fields.number("alpha", 0.2),
        fields.one_of("act_layer", ACTIVATIONS, "gelu"), fields.number("std_conv_eps", 1e-5, high=1), floor=False,
        gamma_in_weights=not fields.get("gamma_in_act", False), same=bool(fields.get("same_padding", False)))


def deepmind(fields):
    """Config of the fields of DeepMind's NFNet; its GELU is JAX's, the tanh form."""
    widths, activation = fields.numbers("width"), fields.one_of("activation", ("gelu", "relu", "silu"), "gelu")
    return Config(
        fields.numbers("stem", (16, 32, 64, 128)), widths, fields.numbers("depth"),
        fields.numbers("expansion", whole=False), fields.numbers("group_width"), fields.number("se_ratio", 0.5),
        fields.whole("final_conv_mult", 2) * widths[-1], fields.whole("num_classes", 1000), fields.number("alpha", 0.2),
        {"gelu": "gelu_tanh"}.get(activation, activation), 1e-4, floor=True)


def blocks(config):
    """(path, channels into it, channels out of it, stride, beta) of every block

    beta is 1 over the standard deviation of what comes in: 1 after the stem and after the first block of a stage, where
    the shortcut is a convolution of normalised numbers; then every block adds alpha^2 to the variance.
    """
    into, variance = config.stem[-1], 1.0
    for stage, (width, depth) in enumerate(zip(config.widths, config.depths)):
        for i in range(depth):
            yield f"stages.{stage}.{i}", into, width, 2 if stage and i == 0 else 1, 1 / math.sqrt(variance)
            variance = (1.0 if i == 0 else variance) + config.alpha ** 2
            into = width


def shapes(config):
    """{name: shape} of every tensor"""
    found, into = {}, 3
    for i, out in enumerate(config.stem, 1):
        found |= conv_shapes(f"stem.conv{i}", out, into, 3)
        into = out
    for path, into, out, stride, _ in blocks(config):
        stage = int(path.split(".")[1])
        group, squeezed = config.groups[stage], int(out * config.excitation + 0.5)
        inside = int(out * config.bottlenecks[stage]) // group * group
        block = conv_shapes("conv1", inside, into, 1) | conv_shapes("conv2", inside, group, 3)
        block |= conv_shapes("conv2b", inside, group, 3) | conv_shapes("conv3", out, inside, 1)
        block |= {"attn_last.fc1.weight": (squeezed, out, 1, 1), "attn_last.fc1.bias": (squeezed,),
                  "attn_last.fc2.weight": (out, squeezed, 1, 1), "attn_last.fc2.bias": (out,), "skipinit_gain": ()}
        if into != out or stride > 1:
            block |= conv_shapes("downsample.conv", out, into, 1)
        found |= below(path, block)
    found |= conv_shapes("final_conv", config.features, config.widths[-1], 1)
    return found | dense_shapes("head.fc", config.classes, config.features)


def conv_shapes(name, out, into, size):
    return {f"{name}.weight": (out, into, size, size), f"{name}.bias": (out,), f"{name}.gain": (out, 1, 1, 1)}


# ------------------------------------------------------------------------------------------------------------ the net

def nfnet(pixels, p, config):
    """Logits and the features before their mean: pull(dlogits, dfeatures or None, g) -> dpixels

    pixels (B, 3, N, M) -> (B, classes), (B, C, n, m)
    """
    x, steps = pixels, []
    for i, stride in enumerate(STEM, 1):
        x, pull_conv = conv(x, p.stem[f"conv{i}"], config, stride)
        x, pull_act = activated(x, config) if i < len(STEM) else (x, lambda dy: dy)
        steps.append((f"stem.conv{i}", pull_conv, pull_act))
    record("stem", x)
    pulls = []
    for path, _, _, stride, beta in blocks(config):
        x, pull_block = block(x, at(p, path), config, stride, beta)
        _, stage, i = path.split(".")
        record(f"stage{stage}_block{i}", x)
        pulls.append((path, pull_block))
    x, pull_conv = conv(x, p.final_conv, config)
    features, pull_act = activated(x, config)
    record("features", features)
    mean = features.mean((2, 3))
    record("pooled", mean)
    y, pull_head = dense(mean, p, "head.fc.")
    record("logits", y)

    def pull(dy, dfeatures, g):
        dmean = pull_head(dy, g)[:, :, None, None] / (features.shape[2] * features.shape[3])
        dx = namespace(dy).broadcast_to(dmean, features.shape)
        dx = pull_conv(pull_act(dx if dfeatures is None else dx + dfeatures), g.final_conv)
        for path, pull_block in reversed(pulls):
            dx = pull_block(dx, g[path])
        for path, pull_step, pull_step_act in reversed(steps):
            dx = pull_step(pull_step_act(dx), g[path])
        return dx
    return y, features, pull


@op
def block(x, p, config, stride, beta):
    """x' + alpha gain h,   h = 2 SE(f(beta act(x)))        (B, C, N, M) -> (B, C', N / stride, M / stride)

    f: 1 x 1, 3 x 3 with the stride, 3 x 3, 1 x 1, an activation between each two. x' is x; or, where there is a
    `downsample`, a 1 x 1 convolution of beta act(x), averaged over 2 x 2 first if there is a stride. The gain is 0 at
    first.
    """
    a, pull_act = activated(x, config)
    a = beta * a
    short, pull_short = x, None
    if p.get("downsample"):
        short, pull_average = average_pool(a, stride, ceil=True)
        short, pull_short = conv(short, p.downsample.conv, config)
    h, steps = a, []
    for name in ("conv1", "conv2", "conv2b", "conv3"):
        h, pull_between = activated(h, config) if name != "conv1" else (h, lambda dy: dy)
        h, pull_conv = conv(h, p[name], config, stride if name == "conv2" else 1)
        steps.append((name, pull_between, pull_conv))
    h, pull_excite = excited(h, p.attn_last)
    gain = p.skipinit_gain * config.alpha

    def pull(dy, g):
        g.add("skipinit_gain", lambda: (dy * h).sum() * config.alpha)
        dh = pull_excite(dy * gain, g.attn_last)
        for name, pull_between, pull_conv in reversed(steps):
            dh = pull_between(pull_conv(dh, g[name]))
        if pull_short is None:
            return dy + pull_act(beta * dh)
        return pull_act(beta * (dh + pull_average(pull_short(dy, g.downsample.conv))))
    return short + h * gain, pull


def activated(x, config):
    """gamma f(x)"""
    function, gamma = ACTIVATIONS[config.activation]
    gamma = 1.0 if config.gamma_in_weights else gamma
    y, pull = function(x)
    return gamma * y, lambda dy: pull(gamma * dy)


def conv(x, p, config, stride=1):
    """A convolution with standardised weights and a bias; as many groups as its weight has channels for"""
    weight, pull_weight = standardised(p.weight, p.gain, config)
    size = p.weight.shape[-1]
    padding = tuple(map(lambda length: same(length, size, stride), x.shape[2:])) if config.same else (size - 1) // 2
    y, pull_conv = convolution(x, weight, p.bias, stride, padding, x.shape[1] // p.weight.shape[1])
    return y, lambda dy, g: pull_conv(dy, Standardised(g, pull_weight))


def same(length, size, stride):
    """(before, after): the zeros that make ceil(length / stride) outputs, the odd one after"""
    zeros = max(0, (-(-length // stride) - 1) * stride + size - length)
    return zeros // 2, zeros - zeros // 2


@op
def standardised(weight, gain, config):
    """(w - mean) gain / sqrt(fan-in (variance + eps)), for each output channel; pull(dy) -> dweight, dgain

    weight (O, I, n, m), gain (O, 1, 1, 1); fan-in = I n m. With config.floor the root is of max(fan-in variance, eps),
    as in DeepMind's code. Qiao et al. 2019 (arXiv 1903.10520), scaled so that the output's variance is the input's.
    """
    xp, n = namespace(weight), math.prod(weight.shape[1:])
    axes = tuple(range(1, weight.ndim))
    centred = weight - weight.mean(axes, keepdims=True)
    variance = (centred * centred).mean(axes, keepdims=True)
    if config.floor:
        inner = xp.maximum(variance * n, config.eps)
        moves = (variance * n > config.eps).astype(weight.dtype)                    # where scale goes with the variance
    else:
        inner, moves = (variance + config.eps) * n, 1
    gamma = ACTIVATIONS[config.activation][1] if config.gamma_in_weights else 1.0
    scale = gamma / xp.sqrt(inner)
    unit = centred * scale

    def pull(dy):
        dunit = dy * gain
        dcentred = dunit * scale
        # d scale = -scale / (2 inner) n d variance, and d variance = 2 / n sum(centred d centred)
        dcentred -= moves * unit / inner * (dunit * centred).sum(axes, keepdims=True)
        return dcentred - dcentred.mean(axes, keepdims=True), (dy * unit).sum(axes, keepdims=True)
    return unit * gain, pull


class Standardised:
    """A g for a convolution whose weight is standardised: its gradient goes on to weight and gain."""

    def __init__(self, g, pull):
        self.g, self.pull = g, pull

    def add(self, name, gradient):
        if name != "weight" or not self.g.trains("weight", "gain"):
            self.g.add(name, gradient)
            return
        dweight, dgain = self.pull(gradient())
        self.g.add("weight", lambda: dweight)
        self.g.add("gain", lambda: dgain)


@op
def excited(x, p):
    """2 s x, s = sigmoid(W_2 relu(W_1 mean(x) + b_1) + b_2), one number for each picture and channel

    Squeeze-and-excitation (Hu et al. 2017, arXiv 1709.01507); the 2 because s is about 1/2.       (B, C, N, M) -> x's
    """
    xp, count = namespace(x), x.shape[2] * x.shape[3]
    h, pull_fc1 = dense(x.mean((2, 3)), p, "fc1.")
    h, pull_relu = activations.relu(h)
    h, pull_fc2 = dense(h, p, "fc2.")
    s = ops.sigmoid(h, xp)                                                          # (B, C)
    factor = EXCITED * s[:, :, None, None]

    def pull(dy, g):
        dh = (dy * x).sum((2, 3)) * EXCITED * s * (1 - s)
        dmean = pull_fc1(pull_relu(pull_fc2(dh, g)), g)
        return dy * factor + dmean[:, :, None, None] / count
    return x * factor, pull


# ------------------------------------------------------------------------------------------------------- golden cases

def timm_case(x, p, config):
    logits, features, pull = nfnet(x["image"], p, config)
    outputs = {"logits": logits, "features": features}
    if p.stages.get("1"):
        first = p.stages[1][0].conv1
        outputs["std_weight"], _ = standardised(first.weight, first.gain, config)
    return outputs, lambda dy, g: {"image": pull(dy["logits"], dy.get("features"), g)}


DEEPMIND_PARTS = {"conv1": "conv0", "conv2": "conv1", "conv2b": "conv1b", "conv3": "conv2",
                  "downsample.conv": "conv_shortcut", "attn_last.fc1": "squeeze_excite/~/linear",
                  "attn_last.fc2": "squeeze_excite/~/linear_1"}


def deepmind_names(config):
    """{our name: DeepMind's} of every tensor: modules of Haiku, blocks counted through all stages"""
    numbers = {path: number for number, (path, *_) in enumerate(blocks(config))}
    found = {}
    for name in shapes(config):
        module, _, kind = name.rpartition(".")
        first = module.split(".")[0]
        linear = "fc" in module
        kind = {"weight": "w", "bias": "b" if linear else "bias", "skipinit_gain": "skip_gain"}.get(kind, kind)
        if first == "stages":
            path, part = ".".join(module.split(".")[:3]), ".".join(module.split(".")[3:])
            number = numbers[path]
            module = f"nf_block_{number}" if number else "nf_block"
            module += f"/~/{DEEPMIND_PARTS[part]}" if part else ""
        elif first == "stem":
            module = f"stem_conv{int(module[-1]) - 1}"
        else:
            module = {"final_conv": "final_conv", "head.fc": "linear"}[module]
        found[name] = f"NFNet/~/{module}/{kind}"
    return found


def from_deepmind(array, shape):
    """A tensor of DeepMind's with torch's axes: (n, m, I, O) -> (O, I, n, m), (I, O) -> (O, I), (O,) -> (O, 1, 1, 1)"""
    return (array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T).reshape(shape)


def to_deepmind(array, shape):
    if len(shape) == 4:
        return array.transpose(2, 3, 1, 0)
    return array.reshape(shape[::-1]).T


def deepmind_shapes(config):
    """{DeepMind's name: shape} of every tensor"""
    names, found = deepmind_names(config), {}
    for name, shape in shapes(config).items():
        if name.endswith("gain"):
            shape = shape[:1]
        elif "fc" in name and name.endswith("weight"):
            shape = shape[1::-1]
        elif len(shape) == 4:
            shape = (*shape[2:], *shape[1::-1])
        found[names[name]] = shape
    return found


def deepmind_case(x, p, config):
    """DeepMind's tensors and pictures (B, N, M, 3), computed with timm's names and axes."""
    names, ours = deepmind_names(config), shapes(config)
    leaves = {name: from_deepmind(p[names[name]], shape) for name, shape in ours.items()}
    with recording() as records:
        logits, _, pull_net = nfnet(x["image"].transpose(0, 3, 1, 2), Params(leaves), config)
    outputs = {"stem": records["stem"].transpose(0, 2, 3, 1)}
    for number, (path, *_) in enumerate(blocks(config)):
        _, stage, i = path.split(".")
        outputs[f"block{number}"] = records[f"stage{stage}_block{i}"].transpose(0, 2, 3, 1)
    outputs |= {"pooled": records["pooled"], "logits": logits}

    def pull(dy, g):
        inner = Gradients(leaves)
        dx = pull_net(dy["logits"], None, inner)
        for name, gradient in inner.leaves.items():
            g.add(names[name], lambda name=name, gradient=gradient: to_deepmind(gradient, p[names[name]].shape))
        return {"image": dx.transpose(0, 2, 3, 1)}
    return outputs, pull


CASES = {"nfnet": Case(lambda fields, shapes: timm(fields), shapes, timm_case),
         "nfnet_deepmind": Case(lambda fields, shapes: deepmind(fields), deepmind_shapes, deepmind_case)}
