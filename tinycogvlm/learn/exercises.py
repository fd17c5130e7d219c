"""Every exercise of the course: its contract, the package's own solution, and its place in the model.

A function of a lesson's exercise.py is one entry here, by its name, which no other lesson uses. That the solution is
the package itself means: `package` computes the same with the package's code, and `shown` names the lines to read. It
takes what the contract gives, and holds the package's functions themselves, whatever stands in their places later.

To add one: a stub in lessons/NN_name/exercise.py, whose docstring's letters name the axes; three hints in hints.json;
an entry below; its known mistakes in mistakes/. Its contract is the op's own, or one of specs.py.
"""
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Callable

import numpy as np

from ..inputs import grounding, image, prompt
from ..inputs.tokenizer import SubwordTokenizer
from ..kernels.library import launch
from ..model import adapter, decoder, expert, generate, route, vit
from ..model.cogvlm import CogVLM
from ..nn import ops
from ..nn.tree import Gradients, Params
from ..train.loop import optimizer
from ..train.recipe import contrast as training
from ..train.ablation import variants
from . import ablation, contrast, cuda, pictures, sequence, specs, tokens


@dataclass(frozen=True)
class Exercise:
    """package(**arguments of the contract) -> what is right. shown: the package's objects to read.

    op:     the name of the contract, if other than the exercise's own.
    part:   what it is in the model; two exercises that are the same part count once. None: it has no place there.
    place:  the op in whose place the learner's function runs, or None if only other parts call it.
    fit:    (the learner's function, the one that runs there before) -> what runs there.
    runs:   "answer", or "gradient" for what only a step of training calls.
    kernel: of CUDA exercises, the package's file that the learner's takes the place of.
    """
    name: str
    package: Callable
    shown: tuple
    part: str = None
    place: Callable = None
    fit: Callable = None
    runs: str = "answer"
    kernel: str = None
    op: str = None

    @property
    def contract(self):
        return specs.CONTRACTS[self.op or self.name]

    @property
    def dtypes(self):
        order = ("float32", "float16") if self.kernel else ("float64", "float32")
        known = [dtype for dtype in order if dtype in self.contract.tolerance]
        return known[:1] if self.kernel else known


def forward(op):
    """The op without its pullback."""
    return lambda *arguments, **named: op.own(*arguments, **named)[0]


def no_pullback(mine, package):
    """For answers, which need none."""
    return lambda *arguments, **named: (mine(*arguments, **named), None)


def fit_linear(mine, package):
    return lambda x, weight, bias=None: (mine(x, weight.reshape(len(weight), -1), bias), None)


def fit_linear_gradients(mine, package):
    def linear(x, weight, bias=None):
        y, _ = package(x, weight, bias)
        matrix = weight.reshape(len(weight), -1)
        zeros = np.zeros(len(weight), x.dtype) if bias is None else bias

        def pull(dy, g):
            dx, dweight, dbias = mine(dy=dy, x=x, weight=matrix, bias=zeros)
            g.add("weight", lambda: dweight.reshape(weight.shape))
            if bias is not None:
                g.add("bias", lambda: dbias)
            return dx
        return y, pull
    return linear


def fit_swiglu_gradients(mine, package):
    return lambda gate, up: (package(gate, up)[0], lambda dy: mine(dy=dy, gate=gate, up=up))


def fit_rms_norm_gradients(mine, package):
    def rms_norm(x, weight, eps):
        def pull(dy, g):
            dx, dweight = mine(dy=dy, x=x, weight=weight, eps=eps)
            g.add("weight", lambda: dweight)
            return dx
        return package(x, weight, eps)[0], pull
    return rms_norm


def fit_cross_entropy_gradient(mine, package):
    return lambda logits, labels, weights=None: (package(logits, labels, weights)[0],
                                                 lambda dloss=1.0: dloss * mine(logits=logits, labels=labels))


def fit_patch_embedding(mine, package):
    def patch_embedding(pixels, p, config):
        table, grid = p.position_embedding.weight, pixels.shape[-1] // config.patch_size
        if len(table) != 1 + grid * grid:
            return package(pixels, p, config)
        return mine(pixels, p.proj.weight, p.proj.bias, p.cls_embedding, table), None
    return patch_embedding


def fit_post_norm_block(mine, package):
    def block(x, p, config):
        def norm(p):
            return lambda x: ops.layer_norm(x, p.weight, p.bias, config.layer_norm_eps)[0]
        return mine(x, lambda x: vit.attention(x, p.attention, config.num_heads)[0], lambda x: vit.mlp(x, p.mlp)[0],
                    norm(p.input_layernorm), norm(p.post_attention_layernorm)), None
    return block


def fit_glu(mine, package):
    return lambda x, p: (mine(x, p.linear_proj.weight, p.norm1.weight, p.norm1.bias, p.gate_proj.weight,
                              p.dense_h_to_4h.weight, p.dense_4h_to_h.weight), None)


def fit_attention(mine, package):
    """Where every token sees every other: in the vision tower."""
    def attention(q, k, v, mask=None, causal=True):
        if causal or mask is not None:
            return package(q, k, v, mask, causal)
        return mine(q, k, v), None
    return attention


def fit_causal_attention(mine, package, shared=False):
    """In the language model, unless keys are hidden, or shared by heads."""
    def attention(q, k, v, mask=None, causal=True):
        if not causal or mask is not None or (not shared and q.shape[1] != k.shape[1]):
            return package(q, k, v, mask, causal)
        return mine(q, k, v), None
    return attention


def fit_routed_dense(mine, package):
    def routed(layer, x, p, name, route):
        if layer is not expert.dense:
            return package(layer, x, p, name, route)
        vision, language = p[f"vision_{name}"], p[f"language_{name}"]
        return mine(x, route.types, vision.weight, language.weight, vision.get("bias")), None
    return routed


def fit_expert_matmul(mine, package):
    """For a prompt: of one token most of a tile would be empty."""
    dense = fit_routed_dense(mine, package)
    return lambda layer, x, *more: (dense if x.shape[1] > 1 else package)(layer, x, *more)


def fit_tensor_cores(mine, package):
    return fit_expert_matmul(cuda.in_half(mine), package)


def fit_position_ids(mine, package):
    """For rows without padding."""
    return lambda types, mask=None: mine(np.asarray(types)) if mask is None or np.all(mask) else package(types, mask)


def package_patch_embedding(x, weight, bias, cls, table, embedding=vit.patch_embedding.own):
    p = Params({"proj.weight": weight, "proj.bias": bias, "cls_embedding": cls, "position_embedding.weight": table})
    return embedding(x, p, SimpleNamespace(patch_size=weight.shape[-1]))[0]


def package_routed_dense(x, types, vision_weight, language_weight, vision_bias=None, routed=expert.routed.own):
    leaves = {"vision_expert_dense.weight": vision_weight, "language_expert_dense.weight": language_weight}
    if vision_bias is not None:
        leaves["vision_expert_dense.bias"] = vision_bias
    return routed(expert.dense, x, Params(leaves), "expert_dense", route.Route(types))[0]


def package_glu(x, w_in, norm_weight, norm_bias, w_gate, w_up, w_down, glu=adapter.glu.own):
    return glu(x, Params({"linear_proj.weight": w_in, "norm1.weight": norm_weight, "norm1.bias": norm_bias,
                          "gate_proj.weight": w_gate, "dense_h_to_4h.weight": w_up, "dense_4h_to_h.weight": w_down}))[0]


def package_next_token_loss(logits, ids, types, cross_entropy=ops.cross_entropy.own):
    """As CogVLM.loss does."""
    row, column = np.nonzero(types[:, 1:] == 0)
    return cross_entropy(logits[row, column], ids[row, column + 1])[0]


def package_adamw(w, g, m, v, step, rate, betas, eps, decay):
    w, m, v = w.copy(), m.copy(), v.copy()
    optimizer.adamw(w, g, m, v, step, rate, betas, eps, decay)
    return w, m, v


def gradients(op, *wanted):
    """The op's pullback as a function of dy and the op's arguments."""
    def package(dy=1.0, **arguments):
        _, pull = op.own(**arguments)
        if "weight" not in arguments:
            return pull(dy)
        g = Gradients(("weight", "bias"))
        found = {"x": pull(dy, g), **g.leaves}
        return tuple(found[name] for name in wanted)
    return package


def same(mine, package):
    return mine


def of_op(name):
    """An op of ops.py that the learner writes as it is."""
    op = getattr(ops, name)
    return Exercise(name, forward(op), (op,), name, op, no_pullback)


def of_gradient(name, op, fit, *wanted):
    """The gradients of an op of ops.py in the arguments `wanted`; by default in all that it has."""
    function = getattr(ops, op)
    return Exercise(name, gradients(function, *wanted), (function,), name, function, fit, runs="gradient")


def of_kernel(name, launcher, file, part=None, place=None, fit=None, op=None):
    """A kernel of a file, launched as the package launches its own."""
    return Exercise(name, launcher, (launch.HERE / file,), part, place, fit, kernel=file, op=op)


def of_rung(kernel, version, *more, op=None):
    """A rung of a kernel's ladder."""
    return of_kernel(f"{kernel}_v{version}", partial(getattr(launch, kernel), version=version), *more, op=op or kernel)


EXERCISES = {exercise.name: exercise for exercise in (
    # 01 arrays
    Exercise("linear", forward(ops.linear), (ops.linear,), "linear", ops.linear, fit_linear),
    Exercise("numerical_gradient", specs.numerical_gradient, (specs.numerical_gradient,)),
    of_gradient("linear_gradients", "linear", fit_linear_gradients, "x", "weight", "bias"),
    # 02 pixels
    Exercise("bicubic_weights", pictures.package_bicubic_weights, (image.square,), "resize", image.square,
             pictures.fit_bicubic_weights),
    Exercise("normalise", pictures.package_normalise, (image.pixels,), "pixels", image.pixels,
             pictures.fit_normalise),
    # 03 patches
    of_op("patches"),
    Exercise("patch_embedding", package_patch_embedding, (vit.patch_embedding,), "patch_embedding",
             vit.patch_embedding, fit_patch_embedding),
    Exercise("interpolate_positions", forward(ops.interpolate_positions), (ops.interpolate_positions,),
             place=ops.interpolate_positions, fit=no_pullback),                # for pictures of other sizes
    # 04 attention
    Exercise("softmax", forward(ops.softmax), (ops.softmax,), "softmax"),
    Exercise("attention", partial(forward(ops.attention), causal=False), (ops.attention,), "attention",
             ops.attention, fit_attention),
    # 05 vision block
    of_op("layer_norm"),
    of_op("gelu"),
    Exercise("post_norm_block", specs.post_norm_block, (vit.block,), "post_norm_block", vit.block,
             fit_post_norm_block),
    # 06 learning to see
    Exercise("contrastive_loss", contrast.package_contrastive_loss, (training.loss, ops.cross_entropy)),
    Exercise("patch_targets", contrast.package_patch_targets, (training.examples,)),
    Exercise("patch_loss", contrast.package_patch_loss, (training.loss, ops.cross_entropy)),
    Exercise("box_loss", contrast.package_box_loss, (training.loss, ops.smooth_l1)),
    # 07 adapter
    Exercise("glu", package_glu, (adapter.glu,), "glu", adapter.glu, fit_glu),
    Exercise("with_ends", specs.with_ends, (adapter.image_tokens,)),
    # 08 tokens
    Exercise("most_frequent_pair", tokens.package_most_frequent_pair, (tokens.most_frequent_pair,)),
    Exercise("merge_pair", tokens.package_merge_pair, (tokens.merge_pair,)),
    Exercise("encode", tokens.package_encode, (tokens.encode,), "encode", SubwordTokenizer._encode,
             tokens.fit_encode),
    # 09 language model
    of_op("rms_norm"),
    of_op("rotary"),
    Exercise("causal_attention", forward(ops.attention), (ops.attention,), "causal_attention", ops.attention,
             fit_causal_attention),
    of_op("swiglu"),
    # 10 decoding
    Exercise("append_to_cache", tokens.package_append_to_cache, (decoder.LayerCache,), "append_to_cache",
             decoder.LayerCache.append, tokens.fit_append_to_cache),
    Exercise("next_probabilities", tokens.package_next_probabilities, (generate.Sampling.choose,),
             "next_probabilities", generate.Sampling.choose, tokens.fit_next_probabilities),
    Exercise("decode", tokens.package_decode, (generate.steps,), "decode", generate.steps, tokens.fit_decode),
    Exercise("left_pad", tokens.package_left_pad, (prompt.pad,)),
    # 11 one sequence
    Exercise("sequence", sequence.package_sequence, (prompt.build,), "sequence", prompt.build,
             sequence.fit_sequence),
    Exercise("merge", sequence.merge, (CogVLM.embed,), "merge", CogVLM.embed, sequence.fit_merge),
    Exercise("position_ids", route.position_ids.own, (route.position_ids,), "position_ids", route.position_ids,
             fit_position_ids),
    Exercise("may_see", sequence.may_see, (ops.attention,)),
    # 12 visual expert
    Exercise("vision_expert_mask", route.vision_expert_mask.own, (route.vision_expert_mask,), "vision_expert_mask",
             route.vision_expert_mask, same),
    Exercise("routed_dense", package_routed_dense, (expert.routed, expert.dense), "routed_dense", expert.routed,
             fit_routed_dense),
    Exercise("split_heads", expert.split_heads.own, (expert.split_heads,), "split_heads", expert.split_heads, same),
    # 13 the real thing
    Exercise("grouped_attention", forward(ops.attention), (ops.attention,), "causal_attention", ops.attention,
             partial(fit_causal_attention, shared=True)),
    # 14 gradients
    of_gradient("swiglu_gradients", "swiglu", fit_swiglu_gradients),
    of_gradient("rms_norm_gradients", "rms_norm", fit_rms_norm_gradients, "x", "weight"),
    of_gradient("cross_entropy_gradient", "cross_entropy", fit_cross_entropy_gradient),
    # 15 training
    Exercise("next_token_loss", package_next_token_loss, (ops.cross_entropy, CogVLM.loss)),
    Exercise("adamw", package_adamw, (optimizer.adamw,)),
    # 16 boxes in words
    Exercise("iou", grounding.iou, (grounding.iou,)),
    Exercise("to_pixels", grounding.to_pixels, (grounding.to_pixels,)),
    # 17 does the expert matter
    Exercise("multiplications", ablation.package_multiplications, (expert.mlp, expert.attention)),
    Exercise("image_attention", ablation.package_image_attention, (variants.image_attention,), "causal_attention",
             ops.attention, ablation.fit_image_attention),
    # 18 cuda
    of_rung("rms_norm", 1, "rmsnorm.cu", "rms_norm", ops.rms_norm, no_pullback),
    of_rung("rms_norm", 2, "rmsnorm.cu", "rms_norm", ops.rms_norm, no_pullback),
    # 19 tiles
    of_rung("expert_matmul", 1, "expert_matmul.cu", "routed_dense", expert.routed, fit_expert_matmul),
    of_rung("expert_matmul", 2, "expert_matmul.cu", "routed_dense", expert.routed, fit_expert_matmul),
    # 20 expert matmul
    of_rung("expert_matmul", 4, "expert_matmul.cu", "routed_dense", expert.routed, fit_tensor_cores,
            op="expert_matmul_v4"),
    # 21 fast decoding
    of_kernel("gemv_v1", cuda.package_gemv("int4", 1), "gemv.cu"),         # 4 bits are too few for so small a model
    of_kernel("gemv_v2", cuda.package_gemv("int8", 2), "gemv.cu", "gemv", ops.linear, cuda.fit_gemv),
    of_kernel("attention_decode_combine", cuda.package_attention_decode, "attention_decode.cu", "attention_decode",
              ops.attention, cuda.fit_attention_decode),
)}
