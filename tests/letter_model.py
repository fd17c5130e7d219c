"""The folder of a tiny random model that reads and writes letter by letter."""
import json

import numpy as np

from tinycogvlm.inputs.tokenizer import BYTE_OF
from tinycogvlm.model.config import Config, VisionConfig
from tinycogvlm.storage.checkpoint import save
from tinycogvlm.train.recipe.initial import initial

TOKENS = ["<pad>", "<s>", "</s>", *BYTE_OF]
CONFIG = Config(len(TOKENS), 16, 16, 1, 2, 2, VisionConfig(16, 1, 2, 16, 14, 28), max_position_embeddings=2048)


def write(folder):
    """-> folder"""
    leaves = initial(CONFIG)
    leaves["model.embed_tokens.weight"] *= np.float32(0.05)
    leaves["lm_head.weight"] *= 20                          # after small embeddings: answers that differ
    save(folder, leaves, CONFIG)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": byte_level,
        "added_tokens": [{"id": i, "content": token, "special": True, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False} for i, token in enumerate(TOKENS[:3])],
        "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "merges": [],
                  "vocab": {token: i for i, token in enumerate(TOKENS)}}}), encoding="utf-8")
    return folder
