"""What the ORIGINAL code computes with a real checkpoint, written as a case folder for `tinycogvlm verify`.

    python benchmarks/reference_dump.py CHECKPOINT PICTURE OUT --tokenizer TOKENIZER --layers 2 --vision-layers 4

For maintainers; needs PyTorch, transformers and CHECKPOINT, a downloaded folder with its modeling_*.py beside the
weights (that code is run; CogVLM's asks for xformers, CogVLM2's for triton, so both for a GPU). The model is cut to its
first layers, everything in float32; a language layer of the real CogVLM is 1.6 GB of OUT/weights.safetensors. Then:

    tinycogvlm verify OUT

The layout of OUT is that of tests/golden/v1_medium: every layer's output, all of the first vision block's, some rows of
each; logits of the last token.
"""
import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tinycogvlm.storage.safetensors_file import write_safetensors  # noqa: E402

ROWS = [0, 1, 2, "n//4", "n//2", "n-2", "n-1"]              # of n rows; tinycogvlm.verify.case reads them so from meta.json

# Where the original's modules leave what a case calls by its own names. "<": the module's first input, else its output.
FIRST_VISION_LAYER = "model.vision.transformer.layers.0."
FIRST_VISION_BLOCK = {
    "attention.dense<": "attn_ctx", "attention": "attn_out", "input_layernorm": "attn_out_normed",
    "mlp": "mlp_out", "post_attention_layernorm": "mlp_out_normed"}
MODULES = {
    "model.vision.patch_embedding": "vit/patch_embed@vrows",
    **{FIRST_VISION_LAYER + path: f"vit/layer0/{name}@vrows" for path, name in FIRST_VISION_BLOCK.items()},
    "model.vision.transformer.layers.{i}": "vit/layer{i}/out@vrows",
    "model.vision.transformer": "vit/out@vrows",
    "model.vision.linear_proj": "adapter/out@arows",
    "model.vision": "vision/out@arows",
    "model.layers.0<": "lm/embeds@rows",
    "model.layers.{i}": "lm/layer{i}/out@rows",
    "model.norm": "lm/norm_out@rows"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("checkpoint", "picture", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--tokenizer", help="folder or name for AutoTokenizer; CogVLM v1 has none of its own")
    parser.add_argument("--query", default="Describe the image.")
    parser.add_argument("--layers", type=int, default=2, help="language layers kept")
    parser.add_argument("--vision-layers", type=int, default=4, help="vision layers kept")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()

    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    config = AutoConfig.from_pretrained(options.checkpoint, trust_remote_code=True)
    config.num_hidden_layers = options.layers
    config.vision_config["num_hidden_layers"] = options.vision_layers
    model = AutoModelForCausalLM.from_pretrained(options.checkpoint, config=config, trust_remote_code=True,
                                                 torch_dtype=torch.float32).eval().to(options.device)
    torch.backends.cudnn.allow_tf32 = False                 # float32 is to mean float32
    tokenizer_folder = options.tokenizer or options.checkpoint
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    picture = Image.open(options.picture).convert("RGB")
    built = model.build_conversation_input_ids(tokenizer, query=options.query, history=[], images=[picture],
                                               template_version=config.template_version)
    inputs = {name: built[name][None].to(options.device) for name in ("input_ids", "token_type_ids", "attention_mask")}
    tensors = collect(model, inputs, [[pixels.to(options.device) for pixels in built["images"]]])
    tensors["img/raw"] = np.asarray(picture)

    options.out.mkdir(parents=True, exist_ok=True)
    spec = {"slim": True}
    for name in ("tokenizer.json", "tokenizer.model"):      # with its tokenizer `verify` makes the prompt's ids itself
        if (Path(tokenizer_folder) / name).exists():
            shutil.copy(Path(tokenizer_folder) / name, options.out)
            spec |= {"query": options.query, "history": []}
    cut = json.loads((options.checkpoint / "config.json").read_text(encoding="utf-8"))
    write_case(options.out, cut, model.state_dict(), tensors, spec)


def collect(model, inputs, images):
    """One forward pass of the original's model -> the case's tensors {name: array}.

    inputs: input_ids, token_type_ids, attention_mask (1, T); images as the model's forward takes them.
    """
    import torch
    tensors, hooks = {}, []

    def keep(name, from_input):
        def hook(module, args, kwargs, output):
            value = (args[0] if args else kwargs["hidden_states"]) if from_input else output
            tensors[name] = slices(name, numpy(value[0] if isinstance(value, tuple) else value))
        return hook

    counts = {"model.layers": len(model.model.layers), "model.vision": len(model.model.vision.transformer.layers)}
    for path, name in MODULES.items():
        number = next(count for start, count in counts.items() if path.startswith(start)) if "{i}" in path else 1
        for i in range(number):
            module = model.get_submodule(path.rstrip("<").format(i=i))
            hook = keep(name.format(i=i), path.endswith("<"))
            hooks.append(module.register_forward_hook(hook, with_kwargs=True))
    with torch.no_grad():
        logits = model(**inputs, images=images).logits
    for hook in hooks:
        hook.remove()

    code = sys.modules[type(model).__module__]              # the original's module of functions
    types, mask = inputs["token_type_ids"], inputs["attention_mask"]
    positions = code.build_position_ids(types, mask)
    vision_mask, _ = code.get_expert_mask(types)
    tensors |= {f"in/{name}": numpy(value).astype(np.int64) for name, value in inputs.items()}
    tensors |= {"in/position_ids": numpy(positions).astype(np.int64), "lm/vision_mask": numpy(vision_mask).astype(bool),
                "lm/logits@last": slices("lm/logits@last", numpy(logits).astype(np.float32))}
    rotary = model.model.layers[0].self_attn.rotary_emb
    for part in ("cos", "sin"):                             # v1 keeps (S, 1, d), both halves alike; v2 (S, d/2)
        cached = getattr(rotary, f"{part}_cached", None)
        table = numpy(getattr(rotary, f"_{part}_cached") if cached is None else cached)
        table = table.reshape(-1, table.shape[-1])[tensors["in/position_ids"]]
        tensors[f"lm/rope_{part}"] = table[..., :rotary.inv_freq.numel()].astype(np.float32)
    return tensors


def slices(name, array):
    """The rows of `array` (1, n, D) that a case keeps under `name`: the last or ROWS."""
    if name.endswith("@last"):
        return array[:, -1]
    n = array.shape[1]
    at = {"n//4": n // 4, "n//2": n // 2, "n-2": n - 2, "n-1": n - 1}
    return array[:, [at.get(row, row) for row in ROWS]]


def write_case(folder, config, state, tensors, spec):
    """config: the checkpoint's config.json, to be cut to the layers that `state` has; state: {name: tensor}."""
    def layers(prefix):
        return len({name[len(prefix):].partition(".")[0] for name in state if name.startswith(prefix)})
    vision = {**config["vision_config"], "num_hidden_layers": layers("model.vision.transformer.layers.")}
    config = {**config, "num_hidden_layers": layers("model.layers."), "vision_config": vision, "torch_dtype": "float32"}
    meta = {"spec": spec, "rows": ROWS, "vrows": ROWS, "arows": ROWS}
    for name, content in (("config.json", config), ("meta.json", meta)):
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    write_safetensors(folder / "weights.safetensors", {name: numpy(tensor) for name, tensor in state.items()})
    write_safetensors(folder / "activations.safetensors", tensors)


def numpy(tensor):
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


if __name__ == "__main__":
    main()
