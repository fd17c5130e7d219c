"""Classic mistakes, planted one by one into a copy of the package: `verify` finds each and names where it begins."""
import importlib
import shutil
import sys
from pathlib import Path

import pytest

import tinycogvlm

PACKAGE = Path(tinycogvlm.__file__).parent
GOLDEN = Path(__file__).parent / "golden"

# the mistake: (case, file, right, wrong, the first tensor that differs)
MISTAKES = {
    "pre-norm ViT":
        ("v1_eps", "model/vit.py", "a, pull_attention = attention(x, p.attention, config.num_heads)",
         "a, pull_attention = attention(ops.layer_norm(x, p.input_layernorm.weight, p.input_layernorm.bias, eps)[0], "
         "p.attention, config.num_heads)", "vit/layer0/qkv"),
    "no residual after the ViT's attention": ("v1_eps", "model/vit.py", "x1 = ops.residual(x, n1)", "x1 = n1", "vit/layer0/fc1"),
    "ViT without position of CLS":
        ("v1_eps", "model/vit.py", "x], 1) + table", "x + table[1:]], 1)", "vit/patch_embed"),
    "last patch dropped instead of CLS": ("v1_eps", "model/vit.py", "return x[:, 1:], pull", "return x[:, :-1], pull",
                                          "adapter/linear_proj"),
    "causal ViT": ("v1_eps", "model/vit.py", "ops.attention(q, k, v, causal=False)", "ops.attention(q, k, v)",
                   "vit/layer0/attn_ctx"),
    "ViT's heads outside of Q, K, V":
        ("v1_eps", "model/vit.py", "q, k, v = qkv.reshape(B, T, 3, heads, W // heads).transpose(2, 0, 3, 1, 4)",
         "q, k, v = qkv.reshape(B, T, heads, 3, W // heads).transpose(3, 0, 2, 1, 4)", "vit/layer0/attn_ctx"),
    "patches transposed":
        ("v1_eps", "nn/ops.py", "squares.transpose(0, 2, 4, 1, 3, 5)", "squares.transpose(0, 4, 2, 1, 3, 5)",
         "vit/patch_conv"),
    "tanh GELU":
        ("v1_eps", "nn/ops.py", "        wide_x, h = wide(x), logit_polynomial()\n",
         "        y[:] = 0.5 * x * (1 + xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))\n"
         "        return\n"
         "        wide_x, h = wide(x), logit_polynomial()\n", "vit/layer0/mlp_out"),
    "the ViT's epsilon in the adapter": ("v1_eps", "model/adapter.py", "NORM_EPS = 1e-5", "NORM_EPS = 1e-6", "adapter/norm1"),
    "the adapter's epsilon in the ViT": ("v1_eps", "model/vit.py", "eps = config.layer_norm_eps", "eps = 1e-6",
                                         "vit/layer0/attn_out_normed"),
    "RMSNorm's epsilon fixed":
        ("v1_eps", "model/decoder.py", "eps = config.rms_norm_eps", "eps = 1e-5", "lm/layer0/input_norm"),
    "LayerNorm with n - 1":
        ("v1_eps", "nn/ops.py", "scale = 1 / xp.sqrt(_mean_product(unit, unit) + eps)",
         "scale = 1 / xp.sqrt(_mean_product(unit, unit) * x.shape[-1] / (x.shape[-1] - 1) + eps)",
         "vit/layer0/attn_out_normed"),
    "adapter's gate and up exchanged":
        ("v1_eps", "model/adapter.py", "a, pull_swiglu = ops.swiglu(gate, up)", "a, pull_swiglu = ops.swiglu(up, gate)",
         "adapter/out"),
    "experts' gate and up exchanged":
        ("v1_eps", "model/expert.py", "a, pull_swiglu = ops.swiglu(gate, up)", "a, pull_swiglu = ops.swiglu(up, gate)",
         "lm/layer0/mlp_out"),
    "boi and eoi exchanged":
        ("v1_eps", "model/adapter.py", "[xp.broadcast_to(p.boi, one_each), x, xp.broadcast_to(p.eoi, one_each)]",
         "[xp.broadcast_to(p.eoi, one_each), x, xp.broadcast_to(p.boi, one_each)]", "vision/out"),
    "eoi to the vision expert":
        ("v1_eps", "model/route.py", "    return mask\n", "    return mask | (types > 0)\n", "lm/vision_mask"),
    "boi to the language expert":
        ("v1_eps", "model/route.py", "    return mask\n",
         "    mask[:, 1:] &= types[:, :-1] > 0\n    return mask\n", "lm/vision_mask"),
    "patches of one image at their own positions":
        ("v1_eps", "model/route.py", "patch = (types > 0) & ~boundary", "patch = (types > 0) & False", "prompts/1"),
    "padding counted in positions":
        ("v1_eps", "model/route.py", "step[np.asarray(mask) == 0] = 0", "pass", "batch/left/in/position_ids"),
    "softmax without its scale":
        ("v1_eps", "nn/attention.py", "scale = 1 / math.sqrt(d)", "scale = 1.0", "vit/layer0/attn_ctx"),
    "the next token seen":
        ("v1_eps", "nn/attention.py", "where=xp.arange(n)[:, None] < xp.arange(n))",
         "where=xp.arange(n)[:, None] + 1 < xp.arange(n))", "lm/layer0/attn_ctx"),
    "padding seen":
        ("v1_eps", "nn/attention.py", "        if mask is not None:\n            xp", "        if False:\n            xp",
         "batch/left/logits"),
    "rotary of neighbours instead of halves":
        ("v1_eps", "nn/ops.py", "first, second = x[..., :half], x[..., half:]",
         "first, second = x[..., ::2], x[..., 1::2]", "lm/layer0/q_rope"),
    "rotary the other way round":
        ("v1_eps", "nn/ops.py", "return turn(x, sin), lambda dy: turn(dy, -sin)",
         "return turn(x, -sin), lambda dy: turn(dy, sin)", "lm/layer0/q_rope"),
    "rotary's stored frequencies ignored":
        ("v1_bf16", "loading.py", "two_bytes if choice", "None if choice", "lm/rope_cos"),
    "heads tiled instead of repeated":
        ("v2_tiny", "nn/attention.py", "return a.reshape(B, G, H // G, *a.shape[2:])",
         "return a.reshape(B, H // G, G, *a.shape[2:]).swapaxes(1, 2)", "lm/layer0/attn_ctx"),
    "no bias in the vision expert":
        ("v2_tiny", "model/expert.py", 'ops.linear(rows, p.weight, p.get("bias"))', "ops.linear(rows, p.weight)",
         "lm/layer0/q"),
    "2x2 convolution transposed":
        ("v2_tiny", "model/adapter.py", "ops.patches(x.swapaxes(1, 2).reshape(B, W, n, n), 2)",
         "ops.patches(x.swapaxes(1, 2).reshape(B, W, n, n).swapaxes(2, 3), 2)", "vit/conv"),
    "wrong begin of sequence":
        ("v2_tiny", "inputs/prompt.py", "return [config.bos_token_id] if", "return [1] if", "prompts/0"),
    "a template without its space":
        ("v1_eps", "inputs/prompt.py", 'return [*earlier, "Question: "', 'return [*earlier, "Question:"', "prompts/6"),
    "padding on the right": ("v1_eps", "inputs/prompt.py", 'def pad(rows, pad_id, side="left")',
                             'def pad(rows, pad_id, side="right")', "batch/left/in/input_ids"),
    "bilinear pictures":
        ("v1_eps", "inputs/image.py", "return picture.resize(between, bicubic).resize((size, size), bicubic)",
         "return picture.resize(between, 2).resize((size, size), 2)", "img/pixel_values"),
    "another mean": ("v1_eps", "inputs/image.py", "CLIP_MEAN = np.array((0.48145466, 0.4578275, 0.40821073)",
                     "CLIP_MEAN = np.array((0.485, 0.456, 0.406)", "img/pixel_values"),
    "cached positions that stand still":
        ("v1_eps", "model/generate.py", "        position = position + 1\n", "        pass\n", "gen/ids"),
    "keys cached before rotation":
        ("v1_eps", "model/expert.py", "cache.append(k, v) if cache", "cache.append(split_heads(qkv, H, G)[1], v) if cache",
         "gen/ids"),
    "labels not shifted":
        ("v1_grads", "model/cogvlm.py", "xp.asarray(labels)[row, column + 1]", "xp.asarray(labels)[row, column] % 7", "loss"),
    "gradient of SwiGLU's gate forgotten":
        ("v1_grads", "model/expert.py", "return pull_gate(dgate, g.gate_proj) + pull_up(dup, g.up_proj)",
         "pull_gate(dgate, g.gate_proj)\n        return pull_up(dup, g.up_proj)",
         "grad/model.layers.1.input_layernorm.weight"),
    "AdamW's decay through the moments":
        ("v1_grads", "train/loop/optimizer.py", "xp, (b1, b2) = namespace(w), betas",
         "xp, (b1, b2), g = namespace(w), betas, g + decay * w", "losses/adamw"),
}


@pytest.fixture
def mutant(tmp_path, monkeypatch):
    """mutant(file, right, wrong): the verify module of a copy of the package in which one text is replaced."""
    name = f"mutant_{tmp_path.name.replace('-', '_')}"

    def plant(file, right, wrong):
        ignored = shutil.ignore_patterns("__pycache__", "weights", "lessons")
        copy = shutil.copytree(PACKAGE, tmp_path / name, ignore=ignored)
        source = (copy / file).read_text(encoding="utf-8")
        assert source.count(right) == 1, f"{file} has {right!r} {source.count(right)} times"
        (copy / file).write_text(source.replace(right, wrong), encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        return importlib.import_module(f"{name}.verify.compare")
    yield plant
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_found(mutant, mistake):
    case, file, right, wrong, first = MISTAKES[mistake]
    report = mutant(file, right, wrong).verify(GOLDEN / case)
    assert not report.ok
    assert report.first_failure.name == first, [row.name for row in report.failed][:5]


def test_a_copy_without_a_mistake_passes(mutant):
    assert mutant("model/vit.py", "x1 = ops.residual(x, n1)", "x1 = ops.residual(n1, x)").verify(GOLDEN / "v1_eps").ok
