"""load and info of Whisper, HuBERT and CLAP: every name and shape of the smallest real ones; other commands refuse them."""
import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from small_relatives import check_real_names, lay_out
from test_clap import FIELDS
from test_hubert import BASE
from test_whisper import DIMS

import tinycogvlm
from tinycogvlm.cli.main import main
from tinycogvlm.errors import UserError
from tinycogvlm.relatives import registry

REAL = json.loads((Path(__file__).parent / "golden" / "real_shapes_ears.json").read_text(encoding="utf-8"))
# config.json of the real folders, as far as it is not the library's default
CONFIGS = {
    "openai/whisper-tiny": {
        "model_type": "whisper", "d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6,
        "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "vocab_size": 51865},
    "facebook/hubert-base-ls960": {"model_type": "hubert"},
    "laion/clap-htsat-unfused": {"model_type": "clap"},
}


@pytest.mark.parametrize("name", REAL)
def test_every_name_and_shape_of_the_smallest_real_one(name, tmp_path, capsys):
    """Of all that transformers' class stores, `ignored` are numbers of positions, and a head that is the embedding."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
    ignored = registry.checkpoint_in(tmp_path)[0].ignored
    read = {key: shape for key, shape in REAL[name].items() if not any(fnmatchcase(key, one) for one in ignored)}
    check_real_names(tmp_path, CONFIGS[name], read, capsys)


@pytest.mark.parametrize("config, kind", [(BASE, "a HuBERT"), (FIELDS, "a CLAP"), (DIMS, "a Whisper")],
                         ids=["hubert", "clap", "whisper"])
def test_what_load_and_the_commands_say(config, kind, tmp_path, capsys):
    where = lay_out(tmp_path, config)
    with pytest.raises(UserError, match=f"holds {kind}, which takes device and dtype, but not kernels"):
        tinycogvlm.load(where, kernels=True)
    commands = {("ask", "-", "What?"): "only a CogVLM answers questions",
                ("match", "a.png", "a fox"): "pictures and texts are compared by a CLIP or a SigLIP"}
    if kind != "a Whisper":
        commands["transcribe", "a.wav"] = "does not hold a Whisper, which transcribe needs"
    for command, said in commands.items():
        assert main([*command, "--weights", str(where)]) == 1
        out, error = capsys.readouterr()
        assert out == "" and said in error and str(where) in error
    assert main(["info", str(where)]) == 0
    assert f"{where}: {kind}" in capsys.readouterr().out
    lay_out(tmp_path, config, "model.unknown.weight")
    with pytest.raises(UserError, match="tensor 'model.unknown.weight' is not part of the model"):
        tinycogvlm.load(where)
