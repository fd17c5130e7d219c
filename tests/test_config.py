"""config.json: the real checkpoints' geometry to the last tensor, and a clear sentence for every malformed field."""
import copy
import json
import math
from collections import Counter
from pathlib import Path

import llama_models
import numpy as np
import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.model.config import Config
from tinycogvlm.model.parts import COMPUTED, PARTS, twin
from tinycogvlm.nn.tree import matches

GOLDEN = Path(__file__).parent / "golden"

VISION = dict(dropout_prob=0.0, hidden_act="gelu", in_channels=3, num_hidden_layers=63, hidden_size=1792, patch_size=14,
              num_heads=16, intermediate_size=15360, layer_norm_eps=1e-6)
COGVLM_CHAT_17B = dict(
    architectures=["CogVLMForCausalLM"], bos_token_id=1, eos_token_id=2, pad_token_id=0, hidden_act="silu",
    hidden_size=4096, initializer_range=0.02, intermediate_size=11008, max_position_embeddings=2048,
    num_attention_heads=32, num_hidden_layers=32, rms_norm_eps=1e-5, template_version="chat", tie_word_embeddings=False,
    torch_dtype="bfloat16", use_cache=True, vocab_size=32000,
    vision_config=VISION | dict(num_positions=1226, image_size=490))
COGVLM2_19B = COGVLM_CHAT_17B | dict(
    bos_token_id=128000, eos_token_id=128001, pad_token_id=128002, intermediate_size=14336,
    max_position_embeddings=8192, num_multi_query_heads=8, vocab_size=128256,
    vision_config=VISION | dict(num_positions=9217, image_size=1344))
REAL = {"cogvlm1": COGVLM_CHAT_17B, "cogvlm2": COGVLM2_19B}


@pytest.mark.parametrize("family, parameters", [("cogvlm1", 17_639_685_376), ("cogvlm2", 19_503_105_280)])
def test_real_names_and_shapes(family, parameters):
    """Every tensor of the real checkpoints; inv_freq is stored with them but is no parameter."""
    real = json.loads((GOLDEN / f"real_shapes_{family}.json").read_text(encoding="utf-8"))
    shapes = Config.from_dict(REAL[family]).shapes()
    assert {name: tuple(shape) for name, shape in real.items()} == shapes
    assert sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith("inv_freq")) == parameters


@pytest.mark.parametrize("family, biases", [("cogvlm1", 0), ("cogvlm2", 1)])
def test_every_parameter_belongs_to_one_part(family, biases):
    names = [name for name in Config.from_dict(REAL[family]).shapes() if not matches(name, COMPUTED)]
    parts = {name: [part for part, patterns in PARTS.items() if matches(name, patterns)] for name in names}
    assert [name for name, found in parts.items() if len(found) != 1] == []
    assert Counter(part for [part] in parts.values()) == {
        "vision transformer": 4 + 63 * 12, "adapter": 8 + 2 * biases, "vision experts": 32 * (5 + biases),
        "language experts": 32 * 5, "language norms": 2 * 32 + 1, "embedding": 1, "lm_head": 1}
    twins = {twin(name) for name in names if parts[name] == ["vision experts"]}
    assert {name for name in twins if name in names} == {n for n in names if parts[n] == ["language experts"]}
    assert sum(name not in names for name in twins) == 32 * biases          # no language expert has a bias


@pytest.mark.parametrize("family, expected", [
    ("cogvlm1", dict(family="cogvlm1", head_size=128, num_key_value_heads=32, rope_base=10000, num_patches=1225,
                     num_image_tokens=1227, vocab_size=32000, bos_token_id=1, eos_token_id=2, pad_token_id=0)),
    ("cogvlm2", dict(family="cogvlm2", head_size=128, num_key_value_heads=8, rope_base=500000, num_patches=2304,
                     num_image_tokens=2306, vocab_size=128256, bos_token_id=128000, eos_token_id=128001,
                     pad_token_id=128002, max_position_embeddings=8192)),
])
def test_real_geometry(family, expected):
    config = Config.from_dict(REAL[family])
    assert {name: getattr(config, name) for name in expected} == expected
    assert (config.vision.grid, config.vision.num_positions) == {"cogvlm1": (35, 1226), "cogvlm2": (96, 9217)}[family]


def test_base_224_has_256_patches():
    config = Config.from_dict(COGVLM_CHAT_17B | dict(vision_config=VISION | dict(num_positions=257, image_size=224)))
    assert (config.num_patches, config.num_image_tokens) == (256, 258)
    assert config.resized(490).num_image_tokens == 1227 and config.resized(490).resized(224) == config


@pytest.mark.parametrize("family, smallest, side", [("cogvlm1", 14, 45), ("cogvlm2", 28, 90)])
def test_image_sizes_have_a_token_and_fit_the_context(family, smallest, side):
    """CogVLM's 45 x 45 patches beside 4 other tokens are 2029 of a context of 2048; 46 x 46 would be 2120."""
    config, largest = Config.from_dict(REAL[family]), smallest * side
    assert config.resized(smallest).num_patches == 1 and config.resized(np.int64(largest)).num_patches == side ** 2
    assert side ** 2 + 4 <= config.max_position_embeddings < (side + 1) ** 2 + 4
    for wrong in (0, -14, 1, smallest - 1, largest + 1, 10 ** 18, True, 56.0, "56", None):
        with pytest.raises(UserError, match=f"the image size is {wrong!r}; it must be a whole number from {smallest}, "
                                            f"which is one image token, to {largest}, which fills the context"):
            config.resized(wrong)


@pytest.mark.parametrize("case", ["v1_tiny", "v2_tiny", "v1_eps", "v1_grads", "v2_grads", "v1_bf16", "v1_medium"])
def test_golden_shapes_and_roundtrip(case, tmp_path):
    from tinycogvlm.storage.checkpoint import Checkpoint
    config = Config.read(GOLDEN / case)
    assert config == Config.read(GOLDEN / case / "config.json")
    if (GOLDEN / case / "weights.safetensors").exists():
        stored = {name: tensor.shape for name, tensor in Checkpoint(GOLDEN / case).items()}
        assert stored == config.shapes()
    config.write(tmp_path)
    assert Config.read(tmp_path) == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("family", REAL)
def test_roundtrip_keeps_the_original_s_fields(family, tmp_path):
    config = Config.from_dict(REAL[family])
    config.write(tmp_path)
    assert Config.read(tmp_path) == config
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert {name: written[name] for name in REAL[family] if name != "torch_dtype"} == \
        {name: value for name, value in REAL[family].items() if name != "torch_dtype"}


def test_what_may_be_left_out():
    """Fields that the real files do not all have, and the values the original then takes."""
    fields = copy.deepcopy(COGVLM2_19B)
    for name in ("pad_token_id", "rms_norm_eps", "hidden_act", "template_version"):
        del fields[name]
    for name in ("num_positions", "layer_norm_eps", "in_channels", "hidden_act", "dropout_prob"):
        del fields["vision_config"][name]
    assert Config.from_dict(fields) == Config.from_dict(COGVLM2_19B)
    assert Config.from_dict(COGVLM2_19B | {"pad_token_id": None}).pad_token_id == 128002
    config = Config.from_dict(COGVLM2_19B | {"eos_token_id": [128001, 128009]})
    assert config.eos_token_id == 128001 and config.eos_token_ids == (128001, 128009)
    assert Config.from_dict(config.to_dict()) == config and config.to_dict()["eos_token_id"] == [128001, 128009]
    assert Config.from_dict(COGVLM2_19B).eos_token_ids == (128001,)
    assert Config.from_dict(COGVLM2_19B).to_dict()["eos_token_id"] == 128001


SIZES = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "bos_token_id",
         "eos_token_id", "pad_token_id", "max_position_embeddings", "num_multi_query_heads",
         *(f"vision_config.{name}" for name in ("hidden_size", "num_hidden_layers", "num_heads", "intermediate_size",
                                                "patch_size", "image_size", "in_channels"))]
FRACTIONS = ["rms_norm_eps", "vision_config.layer_norm_eps"]
MALFORMED = [
    *((name, value) for name in SIZES for value in (-1, 1.5, "12", True, {}, [], float("nan"), 1e400)),
    *((name, 0) for name in SIZES if not name.endswith("_id")),
    *((name, value) for name in FRACTIONS for value in (0, -1e-5, 1, 12, "1e-5", True, {}, [], float("nan"), 1e400)),
    *((name, None) for name in SIZES + FRACTIONS if name != "pad_token_id"),
    ("hidden_act", "gelu"), ("hidden_act", None), ("vision_config.hidden_act", "quick_gelu"),
    ("template_version", 5), ("template_version", None), ("template_version", ["chat"]), ("template_version", "chatty"),
    ("vision_config", None), ("vision_config", []), ("vision_config", "EVA"),
    *(("vision_config.num_positions", value) for value in (9216, "9217", None)),
    ("hidden_size", 4095), ("hidden_size", 4128), ("num_attention_heads", 31), ("num_multi_query_heads", 5),
    ("num_multi_query_heads", 64), ("vision_config.num_heads", 15), ("vision_config.image_size", 27),
    ("vision_config.patch_size", 1345), ("vision_config.in_channels", 4), ("vocab_size", 128000),
    ("bos_token_id", 128256), ("eos_token_id", 128256), ("pad_token_id", 128256),
]


@pytest.mark.parametrize("name, value", MALFORMED, ids=lambda value: repr(value)[:40])
def test_malformed_field(name, value, tmp_path):
    """One sentence that names the file and the field."""
    fields = copy.deepcopy(COGVLM2_19B)
    *inside, field = name.split(".")
    (fields[inside[0]] if inside else fields)[field] = value
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(UserError) as error:
        Config.read(tmp_path)
    assert str(path) in str(error.value) and field in str(error.value), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                                  "num_attention_heads", "vision_config", "vision_config.hidden_size",
                                  "vision_config.num_hidden_layers", "vision_config.num_heads",
                                  "vision_config.intermediate_size", "vision_config.patch_size",
                                  "vision_config.image_size"])
def test_missing_field(name, tmp_path):
    fields = copy.deepcopy(COGVLM2_19B)
    *inside, field = name.split(".")
    del (fields[inside[0]] if inside else fields)[field]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(UserError, match=field) as error:
        Config.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"5", b"\xff\xfe{", b"[" * 100_000,
                                     b'{"vision_config": {}}'], ids=lambda content: repr(content[:20]))
def test_no_config(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        Config.read(tmp_path)
    assert str(path) in str(error.value)


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "config.json", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="cannot be read"):
            Config.read(path)


def test_v1_ignores_no_multi_query_heads():
    """The family is told by num_multi_query_heads alone: without it the same file is a CogVLM v1 of 32 heads."""
    fields = {name: value for name, value in COGVLM2_19B.items() if name != "num_multi_query_heads"}
    config = Config.from_dict(fields)
    assert (config.family, config.num_key_value_heads, config.rope_base) == ("cogvlm1", 32, 10000)


@pytest.mark.parametrize("base", [1, 0, -3.0, 1e12, float("nan"), "10000", True, []])
def test_no_base_of_rotary_frequencies(base):
    with pytest.raises(UserError, match="rope_theta"):
        Config.from_dict(llama_models.FIELDS | {"rope_theta": base})


@pytest.mark.parametrize("base", [1.5, 1e4, 9.9e11])
def test_bases_of_rotary_frequencies(base):
    assert Config.from_dict(llama_models.FIELDS | {"rope_theta": base}).rope_base == base
