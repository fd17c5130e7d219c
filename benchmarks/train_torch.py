"""The training stages in eager PyTorch, float32: checked against our gradients, then timed, for train.py --torch.

    PYTHON train_torch.py FOLDER THREADS

FOLDER, written by train.py: config.json, leaves.npz, stage.json (what is trained, and how), and the steps' arrays with
the loss and the gradients that they must give. Then every line "PLACE-WORKERS" of the standard input is answered with
the seconds of that step: forward and backward, and with clipping, AdamW and the moving average. Needs only PyTorch and
NumPy; nothing of tinycogvlm is imported, so that it is a second opinion on every gradient.
"""
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F

TOLERANCE = 1e-4                                            # of the largest entry of a tensor


# The model: w is {tensor name: parameter}, `at` the beginning of the names

def linear(x, w, at):
    return F.linear(x, w[f"{at}.weight"], w.get(f"{at}.bias"))


def layer_norm(x, w, at, eps):
    return F.layer_norm(x, x.shape[-1:], w[f"{at}.weight"], w[f"{at}.bias"], eps)


def vit(pixels, w, config):
    """(B, 3, N, N) -> (B, P, W)"""
    at, B = "model.vision.patch_embedding.", len(pixels)
    x = F.conv2d(pixels, w[at + "proj.weight"], w[at + "proj.bias"], config.patch_size)             # (B, W, n, n)
    table, grid = w[at + "position_embedding.weight"], x.shape[-1]
    if len(table) != 1 + grid * grid:
        n = round((len(table) - 1) ** 0.5)
        squares = table[1:].T.reshape(1, -1, n, n)
        squares = F.interpolate(squares, size=(grid, grid), mode="bicubic", align_corners=False)
        table = torch.cat([table[:1], squares.flatten(2)[0].T])
    x = torch.cat([w[at + "cls_embedding"].expand(B, 1, -1), x.flatten(2).transpose(1, 2)], 1) + table
    for i in range(config.num_hidden_layers):
        at, (_, T, W) = f"model.vision.transformer.layers.{i}.", x.shape
        qkv = linear(x, w, at + "attention.query_key_value")
        q, k, v = qkv.reshape(B, T, 3, config.num_heads, -1).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, W)
        a = linear(context, w, at + "attention.dense")
        x = x + layer_norm(a, w, at + "input_layernorm", config.layer_norm_eps)
        m = linear(F.gelu(linear(x, w, at + "mlp.fc1")), w, at + "mlp.fc2")
        x = x + layer_norm(m, w, at + "post_attention_layernorm", config.layer_norm_eps)
    return x[:, 1:]


def swiglu(x, w, gate, up, down):
    return linear(F.silu(linear(x, w, gate)) * linear(x, w, up), w, down)


def images(pixels, w, config):
    """(N, 3, S, S) -> boi, patches, eoi of every picture (N, P + 2, D)"""
    x, at = vit(pixels, w, config.vision), "model.vision.linear_proj."
    x = F.gelu(layer_norm(linear(x, w, at + "linear_proj"), w, at + "norm1", 1e-5))
    x = swiglu(x, w, at + "gate_proj", at + "dense_h_to_4h", at + "dense_4h_to_h")
    ends = [w[f"model.vision.{end}"].expand(len(x), 1, -1) for end in ("boi", "eoi")]
    return torch.cat([ends[0], x, ends[1]], 1)


def routed(layer, x, experts):
    """layer(rows, expert) of the rows of every expert: (B T, I) -> (B T, O)"""
    parts = [layer(x.index_select(0, rows), expert) for expert, rows in experts]
    if len(parts) == 1:
        return parts[0]
    y = parts[0].new_empty(len(x), parts[0].shape[1])
    for (_, rows), part in zip(experts, parts):
        y = y.index_copy(0, rows, part)
    return y


def rotary(x, cos, sin):
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def decoder(part, w, config):
    """-> (B, T, D) after the final norm. Rows are padded on the right, so the causal mask hides the padding too."""
    (B, T), D, H = part.ids.shape, config.hidden_size, config.num_attention_heads
    x = F.embedding(part.ids, w["model.embed_tokens.weight"]).reshape(B * T, D)
    if part.pixels is not None:
        x = x.index_copy(0, part.image_tokens, images(part.pixels, w, config).reshape(-1, D))
    angles = part.positions[:, None, :, None] * w["model.layers.0.self_attn.rotary_emb.inv_freq"]   # (B, 1, T, d/2)
    cos, sin = angles.cos(), angles.sin()
    for i in range(config.num_hidden_layers):
        at = f"model.layers.{i}."
        h = F.rms_norm(x, (D,), w[at + "input_layernorm.weight"], config.rms_norm_eps)
        qkv = routed(lambda rows, expert, at=at: linear(rows, w, f"{at}self_attn.{expert}_expert_query_key_value"), h,
                     part.experts)
        q, k, v = qkv.reshape(B, T, 3, H, -1).permute(2, 0, 3, 1, 4)
        q, k = rotary(q, cos, sin), rotary(k, cos, sin)
        context = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B * T, D)
        x = x + routed(lambda rows, expert, at=at: linear(rows, w, f"{at}self_attn.{expert}_expert_dense"), context,
                       part.experts)
        h = F.rms_norm(x, (D,), w[at + "post_attention_layernorm.weight"], config.rms_norm_eps)
        x = x + routed(lambda rows, expert, at=at: swiglu(rows, w, *(f"{at}mlp.{expert}_mlp.{name}_proj"
                                                                     for name in ("gate", "up", "down"))),
                       h, part.experts)
    return F.rms_norm(x, (D,), w["model.norm.weight"], config.rms_norm_eps)


# The losses, each a sum of what is counted

def talk(part, w, stage):
    """Cross-entropy of the answers' tokens, weighted; logits of those rows only"""
    rows = decoder(part, w, stage.config).index_select(0, part.learned)
    return part.weights @ F.cross_entropy(F.linear(rows, w["lm_head.weight"]), part.next, reduction="none")


def contrast(part, w, stage):
    """Patches with their names, patches with their things' boxes, pictures with the names of their things"""
    x = vit(part.pixels, w, stage.config.vision)                                        # (N, P, W)
    rows, targets, words = x.flatten(0, 1), part.targets.reshape(-1), w["words.weight"]
    logits = rows @ (stage.spelled @ words).T
    named = F.cross_entropy(logits, torch.where(part.thing, targets, -100))
    empty = F.cross_entropy(logits, torch.where(targets >= stage.names, targets, -100))
    places = F.linear(rows.index_select(0, part.thing_rows), w["box.weight"])
    boxes = stage.box_weight * F.smooth_l1_loss(places, part.boxes, beta=stage.sharp)
    alike = F.linear(x.mean(1), w["picture.weight"]) @ (part.things @ words).T
    own = torch.arange(len(x))
    pictures = (F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)) / 2
    return len(x) * (named + stage.background_weight * empty + boxes + stage.picture_weight * pictures)


# What is known of a part before any arithmetic

def read_parts(path, names):
    """The parts of a step: tensors, and which tokens are whose"""
    with np.load(path) as file:
        numbers = sorted({name.partition("/")[0] for name in file}, key=int)
        parts = [{name.partition("/")[2]: torch.from_numpy(file[name]) for name in file if name.startswith(f"{i}/")}
                 for i in numbers]
    return [vision_part(**part, names=names) if "targets" in part else talk_part(**part) for part in parts]


def vision_part(pixels, targets, boxes, things, names):
    thing = (targets >= 0).logical_and(targets < names).reshape(-1)
    rows = thing.nonzero()[:, 0]
    return SimpleNamespace(pixels=pixels, targets=targets, things=things, thing=thing, thing_rows=rows,
                           boxes=boxes.reshape(-1, 4)[rows], count=len(pixels))


def talk_part(ids, types, mask, labels, pixels=None):
    """The rules of boi, eoi and of an answer's weight, once more and in other words"""
    vision = F.pad((types[:, :-1] > 0) & (types[:, 1:] > 0), (0, 1))                    # and the next one, too
    repeated = vision & F.pad(vision[:, :-1], (1, 0)) & F.pad(vision[:, :-2], (2, 0))   # a patch after a patch
    positions = ((mask > 0) & ~repeated).long().cumsum(1) - 1
    experts = [(name, rows.reshape(-1).nonzero()[:, 0]) for name, rows in (("language", ~vision), ("vision", vision))]
    following = F.pad(labels[:, 1:], (0, 1), value=-100).reshape(-1)
    _, run, lengths = torch.unique_consecutive(following != -100, return_inverse=True, return_counts=True)
    learned = (following != -100).nonzero()[:, 0]
    weights = lengths[run[learned]] ** -0.5                                             # of an answer of that length
    return SimpleNamespace(ids=ids, pixels=pixels, positions=positions.float(), learned=learned,
                           next=following[learned], weights=weights, count=weights.sum().item(),
                           experts=[(name, rows) for name, rows in experts if len(rows)],
                           image_tokens=(types.reshape(-1) > 0).nonzero()[:, 0])


# A step

def forward_backward(parts, w, stage):
    """The mean loss; gradients are left in the parameters."""
    total, value = sum(part.count for part in parts), 0.0
    for part in parts:
        loss = stage.loss(part, w, stage) / total
        loss.backward()
        value += loss.item()
    return value


class Learner:
    """AdamW, clipping and a moving average, as tinycogvlm/train/loop/loop.py does them"""

    def __init__(self, w, stage):
        self.trained = [w[name] for name in stage.trained]
        groups = {}
        for name, (rate, decay) in stage.trained.items():
            groups.setdefault((rate, decay), []).append(w[name])
        groups = [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]
        self.optimizer = torch.optim.AdamW(groups, betas=tuple(stage.betas), eps=1e-8, fused=True)
        self.average = [parameter.detach().clone() for parameter in self.trained]
        self.follow = torch.optim.swa_utils.get_ema_multi_avg_fn(stage.ema)

    def step(self, parts, w, stage):
        """-> seconds of forward and backward, seconds of all"""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        forward_backward(parts, w, stage)
        middle = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(self.trained, stage.longest)
        self.optimizer.step()
        self.follow(self.average, self.trained, None)
        return middle - start, time.perf_counter() - start


def disagreement(parts, expected, w, stage):
    """How far loss and gradients are from ours, of the largest entry: the loss, the worst tensor, its name"""
    for name in stage.trained:
        w[name].grad = None
    value = torch.tensor(forward_backward(parts, w, stage))
    gradients = {name: torch.zeros_like(w[name]) if w[name].grad is None else w[name].grad for name in stage.trained}
    worst = max((apart(gradients[name], expected[name]), name) for name in stage.trained)
    return apart(value, expected["loss"]), *worst


def apart(theirs, ours):
    """inf where one is not a number"""
    largest = theirs.abs().max().clamp_min(torch.finfo(torch.float32).tiny)             # of a zero gradient, too
    return ((theirs - torch.from_numpy(ours)).abs().max() / largest).nan_to_num(nan=torch.inf).item()


def main(folder, threads):
    torch.set_num_threads(int(threads))
    folder = Path(folder)
    stage = SimpleNamespace(**json.loads((folder / "stage.json").read_text(encoding="utf-8")))
    stage.config = json.loads((folder / "config.json").read_text(encoding="utf-8"),
                              object_hook=lambda fields: SimpleNamespace(**fields))
    stage.config.vision = stage.config.vision_config
    stage.loss = {"contrast": contrast, "talk": talk}[stage.kind]
    with np.load(folder / "leaves.npz") as file:
        w = {name: torch.from_numpy(file[name]).requires_grad_(name in stage.trained) for name in file}
    stage.spelled = torch.tensor(stage.spelled)
    steps = {path.stem: read_parts(path, stage.names) for path in (folder / "steps").iterdir()}

    found = []
    for path in (folder / "expected").iterdir():
        with np.load(path) as expected:
            found.append(disagreement(steps[path.stem], expected, w, stage))
    loss, gradient, tensor = max(found, key=lambda numbers: max(numbers[:2]))
    if not max(loss, gradient) < TOLERANCE:
        sys.exit(f"PyTorch disagrees: loss by {loss:.1e}, gradient of {tensor} by {gradient:.1e} of its largest entry; "
                 f"{TOLERANCE} is tolerated")
    print(json.dumps({"version": torch.__version__, "threads": torch.get_num_threads(), "loss": loss,
                      "gradient": gradient, "tensor": tensor}), flush=True)
    learner = Learner(w, stage)
    for line in sys.stdin:
        print(*learner.step(steps[line.strip()], w, stage), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
