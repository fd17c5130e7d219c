"""A complete CogVLM folder whose model says what was written into its weights: for tests of the command line."""
import json

import numpy as np

from tinycogvlm.inputs.tokenizer import BYTE_OF
from tinycogvlm.model.config import Config, VisionConfig
from tinycogvlm.storage.safetensors_file import write_safetensors

ANSWER = "A red star [[100,200,300,400]]."

# The token after each token, whatever came before: templates end in ":", a bare question in "?", an order in "!".
BOX, NONE, BROKEN = "\u0120[[100,200,300,400]].", "\u0120no\u0120such\u0120thing.", "\u0120[[1,2,3]]"
AFTER = {":": "\u0120A\u0120red\u0120star", "\u0120A\u0120red\u0120star": BOX, BOX: "</s>",
         "?": NONE, NONE: "</s>", "!": BROKEN, BROKEN: "</s>"}


def write_toy(folder):
    """Attention and MLPs add nothing, embeddings are one-hot, so lm_head is the table AFTER."""
    tokens = ["<pad>", "<s>", "</s>", *BYTE_OF, "\u0120A\u0120red\u0120star", BOX, NONE, BROKEN]
    ids = {token: i for i, token in enumerate(tokens)}
    config = Config(len(ids), 264, 8, 1, 4, 4, VisionConfig(8, 1, 2, 8, 14, 28), max_position_embeddings=512)
    config.write(folder)
    leaves = {name: np.ones(shape, "f4") if name.endswith("norm.weight") else np.zeros(shape, "f4")
              for name, shape in config.shapes().items() if not name.endswith("inv_freq")}
    np.fill_diagonal(leaves["model.embed_tokens.weight"], 1)
    for token, following in AFTER.items():
        leaves["lm_head.weight"][ids[following], ids[token]] = 1
    write_safetensors(folder / "model.safetensors", leaves)
    specials = [{"id": ids[token], "content": token, "special": True, "single_word": False, "lstrip": False,
                 "rstrip": False, "normalized": False} for token in ("<pad>", "<s>", "</s>")]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": specials, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": ids, "merges": []},
    }), encoding="utf-8")
