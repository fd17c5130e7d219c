"""A llama of some thousand parameters, as a Hugging Face folder and as a .gguf file; and what it computes, as loops."""
import json

import numpy as np
from checkpoints import generated
from safetensors.numpy import save_file

from tinycogvlm.inputs.tokenizer import BYTE_OF

D, F, L, H, G, CONTEXT, EPS, BASE = 64, 96, 2, 4, 2, 128, 2 ** -10, 777.0
SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["a b", "ab c", "\u0120 a"]
VOCABULARY = [*SPECIAL, *BYTE_OF, *(merge.replace(" ", "") for merge in MERGES)]
V = len(VOCABULARY)
FIELDS = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=D, intermediate_size=F,
              num_hidden_layers=L, num_attention_heads=H, num_key_value_heads=G, max_position_embeddings=CONTEXT,
              rms_norm_eps=EPS, rope_theta=BASE, vocab_size=V, bos_token_id=1, eos_token_id=2, pad_token_id=None,
              hidden_act="silu", tie_word_embeddings=True)
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + "
            "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def weights(tied=True, seed=0):
    """{Hugging Face's name: float32 array}"""
    layer = {"self_attn.q_proj": (D, D), "self_attn.k_proj": (G * D // H, D), "self_attn.v_proj": (G * D // H, D),
             "self_attn.o_proj": (D, D), "mlp.gate_proj": (F, D), "mlp.up_proj": (F, D), "mlp.down_proj": (D, F),
             "input_layernorm": (D,), "post_attention_layernorm": (D,)}
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)} | ({} if tied else {"lm_head.weight": (V, D)})
    shapes |= {f"model.layers.{i}.{name}.weight": shape for i in range(L) for name, shape in layer.items()}
    return {name: 1 + 0.2 * array if "norm" in name else 0.2 * array
            for name, array in generated(shapes, seed).items()}


def tokenizer_json():
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [{"id": i, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False} for i, token in enumerate(SPECIAL)]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                                                    byte_level]},
            "post_processor": None, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": {token: i for i, token in enumerate(VOCABULARY)}, "merges": MERGES}}


def write_folder(folder, tensors=None, template=TEMPLATE, **fields):
    """A folder as Hugging Face ships it"""
    folder.mkdir(exist_ok=True)
    tensors = weights() if tensors is None else tensors
    fields = FIELDS | {"tie_word_embeddings": "lm_head.weight" not in tensors} | fields
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()), encoding="utf-8")
    settings = {"chat_template": template} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / "model.safetensors")
    return folder


NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
         "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def interleaved(w, heads):
    """As llama.cpp's conversion permutes queries and keys: row i of a head's first half, then of its second"""
    return w.reshape(heads, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(path, tensors=None, kind="F32", architecture="llama", left_out=(), cut="smollm", more=(), **metadata):
    """The same model as llama.cpp's conversion writes it, by the package gguf

    kind: of the matrices. more: {name: array} of what is in the file, too.
    """
    import gguf
    tensors, kind = weights() if tensors is None else tensors, gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(L)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(F)
    writer.add_head_count(H)
    writer.add_head_count_kv(G)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_freq_base(BASE)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (V - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(metadata.pop("add_bos", False))
    writer.add_chat_template(TEMPLATE)
    for name, value in metadata.items():
        name, add = name.replace("__", "."), writer.add_string if isinstance(value, str) else writer.add_uint32
        writer.kv_data[0].pop(name, None)                   # what stands there already
        add(name, value)
    for name, array in dict(more).items():
        writer.add_tensor(name, array.astype(np.float32))
    for name, array in tensors.items():
        begin, _, last = name.rpartition(".")
        layer = begin.removeprefix("model.layers.")
        number, _, part = layer.partition(".") if layer != begin else ("", "", begin)
        if name in left_out:
            continue
        if part.endswith(("q_proj", "k_proj")):
            array = interleaved(array, H if part.endswith("q_proj") else G)
        stored = f"blk.{number}.{NAMES[part]}.{last}" if number else f"{NAMES[part]}.{last}"
        of = kind if array.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(stored, gguf.quants.quantize(np.ascontiguousarray(array), of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def computed(tensors, ids):
    """Logits (T, V) of the tokens, in float64, by the definition: one token, one head, one key at a time"""
    w = {name: array.astype(np.float64) for name, array in tensors.items()}
    d, x = D // H, w["model.embed_tokens.weight"][ids]

    def norm(x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight

    def turned(vector, position):
        """Pairs (i, i + d/2), each by the angle position base^(-2i/d)"""
        y = np.empty(d)
        for i in range(d // 2):
            angle = position * BASE ** (-2 * i / d)
            a, b = vector[i], vector[i + d // 2]
            y[i], y[i + d // 2] = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
        return y
    for layer in range(L):
        p = {name.removeprefix(f"model.layers.{layer}."): array for name, array in w.items()}
        h = norm(x, p["input_layernorm.weight"])
        q, k, v = (h @ p[f"self_attn.{part}_proj.weight"].T for part in "qkv")
        context = np.zeros_like(h)
        for t in range(len(ids)):
            for head in range(H):
                group = head // (H // G)
                query = turned(q[t, head * d:(head + 1) * d], t)
                scores = np.array([query @ turned(k[s, group * d:(group + 1) * d], s) for s in range(t + 1)]) / np.sqrt(d)
                share = np.exp(scores - scores.max())
                context[t, head * d:(head + 1) * d] = share / share.sum() @ v[:t + 1, group * d:(group + 1) * d]
        x = x + context @ p["self_attn.o_proj.weight"].T
        h = norm(x, p["post_attention_layernorm.weight"])
        gate, up = h @ p["mlp.gate_proj.weight"].T, h @ p["mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ p["mlp.down_proj.weight"].T
    return norm(x, w["model.norm.weight"]) @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T
