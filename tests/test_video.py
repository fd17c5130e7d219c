"""CogVLM2-Video: frames from files, prompts of many frames, and the model without visual experts.

Which frames are chosen and how they are laid out is golden: the case cogvlm2_video in test_relatives.py.
"""
import json
import sys
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinycogvlm.cli import main
from tinycogvlm.errors import UserError
from tinycogvlm.inputs import prompt, video
from tinycogvlm.inputs.tokenizer import ByteTokenizer
from tinycogvlm.kernels.engine import Engine
from tinycogvlm.kernels.plan import scratch
from tinycogvlm.kernels.runner import build
from tinycogvlm.model import adapter
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.model.config import Config, VisionConfig
from tinycogvlm.nn.swap import swapped

REAL_V2 = json.loads((Path(__file__).parent / "golden" / "real_shapes_cogvlm2.json").read_text(encoding="utf-8"))
# config.json of cogvlm2-video-llama3-chat, as far as it is read
REAL = {"architectures": ["CogVLMVideoForCausalLM"], "vocab_size": 128256, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_multi_query_heads": 8,
        "max_position_embeddings": 2048, "bos_token_id": 128000, "eos_token_id": 128001, "template_version": "chat",
        "vision_config": {"hidden_size": 1792, "num_hidden_layers": 63, "num_heads": 16, "intermediate_size": 15360,
                          "patch_size": 14, "image_size": 224}}


# -------------------------------------------------------------------------------------------------------------- model

def test_the_real_one_is_cogvlm2_without_visual_experts():
    """12.5 billion parameters of CogVLM2's names and shapes; another position table, for 224 pixels."""
    config = Config.from_dict(REAL)
    shapes = {name: list(shape) for name, shape in config.shapes().items()}
    expected = {name: shape for name, shape in REAL_V2.items() if "vision_expert" not in name and "vision_mlp" not in name}
    expected["model.vision.patch_embedding.position_embedding.weight"] = [257, 1792]
    assert shapes == expected
    assert (config.family, config.num_image_tokens, config.rope_base) == ("cogvlm2-video", 66, 500000)
    assert Config.from_dict(config.to_dict()) == config and config.to_dict()["architectures"] == REAL["architectures"]


def test_info(tmp_path, capsys):
    """A picture costs the tower (257 places, attention) and, for its 66 tokens, the adapter and the language experts."""
    (tmp_path / "config.json").write_text(json.dumps(REAL), encoding="utf-8")
    assert main.main(["info", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    parts = report["parameters"]
    assert (report["family"], parts["total"]) == ("cogvlm2-video", 12_507_530_496) and "vision experts" not in parts
    assert report["flops_per_picture"] == (2 * 257 * parts["vision transformer"] + 4 * 63 * 257 ** 2 * 1792
                                           + 2 * 66 * (parts["adapter"] + parts["language experts"]))
    assert report["memory"]["cpu, float32"]["scratch"] == 4 * 512 * (14 * 4096 + 3 * 14336)


def test_both_ways_of_experts_are_one_where_weights_are_the_same(make_config, make_leaves, make_inputs):
    """CogVLM2 whose visual experts are copies computes the same, and both experts' gradients add up."""
    config = make_config("cogvlm2-video", num_key_value_heads=3)
    leaves = make_leaves(config)
    twins = replace(config, family="cogvlm2")
    copies = {name: leaves.get(name.replace("vision_expert", "language_expert").replace("vision_mlp", "language_mlp"))
              for name in twins.shapes()}
    copies = {name: np.zeros(twins.shapes()[name]) if array is None else array for name, array in copies.items()}
    inputs = make_inputs(config, [2, "image", 1, "image", 3], ["image", 4])
    labels = np.where(inputs.types == 0, inputs.ids, -100)
    labels[inputs.mask == 0] = -100
    labels[:, 1:][inputs.mask[:, :-1] == 0] = -100
    loss, pull = CogVLM(config, leaves).loss(inputs, labels)
    expected, pull_expected = CogVLM(twins, copies).loss(inputs, labels)
    assert loss == pytest.approx(expected, rel=1e-12)
    found, both = pull(), pull_expected()
    for name, gradient in found.items():
        twin = name.replace("language_expert", "vision_expert").replace("language_mlp", "vision_mlp")
        total = both[name] + (both[twin] if twin != name else 0)
        np.testing.assert_allclose(gradient, total, rtol=1e-9, atol=1e-12 * np.abs(total).max(), err_msg=name)


@pytest.mark.parametrize("kinds", ["image", "frames"])
def test_gradients_by_differences(make_config, make_leaves, kinds):
    """Along one random direction through all parameters, in float64; frames as media of their own and as one."""
    config = make_config("cogvlm2-video", num_key_value_heads=3)
    leaves, random = make_leaves(config), np.random.default_rng(3)
    n, S = config.num_image_tokens, config.vision.image_size
    frames = random.standard_normal((3, 3, S, S))
    if kinds == "frames":
        types, media = [0] + [1] * 3 * n + [0] * 4, [("frames", frames)]
    else:
        types, media = [0] + [1] * n + [0] + [2] * n + [0] + [3] * n + [0] * 4, prompt.images(frames)
    types = np.array([types])
    ids = np.where(types > 0, 0, random.integers(3, 30, types.shape))
    inputs = prompt.Inputs(ids, types, np.ones_like(ids), media)
    labels = np.full(ids.shape, -100)
    labels[:, -3:] = ids[:, -3:]
    gradients = CogVLM(config, leaves).loss(inputs, labels)[1]()
    along = {name: random.standard_normal(array.shape) for name, array in gradients.items()}
    step = 1e-6
    after, before = (CogVLM(config, leaves | {name: leaves[name] + sign * step * along[name] for name in along}).loss(
        inputs, labels)[0] for sign in (1, -1))
    slope = sum((gradients[name] * along[name]).sum() for name in along)
    assert (after - before) / (2 * step) == pytest.approx(slope, rel=1e-7)


@pytest.fixture
def five_at_once(monkeypatch):
    monkeypatch.setattr(Config, "tokens_at_once", 5)


@pytest.mark.parametrize("family", ["cogvlm2-video", "cogvlm1"])
def test_a_long_prompt_by_parts(family, make_config, make_leaves, make_inputs, five_at_once):
    """Parts of 5 tokens, which cut images and, in one row, padding: the same logits, and the same cache for what
    follows. The tower sees no more pictures at a time than there are rows."""
    config = make_config(family, **{"num_key_value_heads": 3} if family != "cogvlm1" else {})
    model = CogVLM(config, make_leaves(config))
    inputs = make_inputs(config, [2, "image", 1, "image", 3, "image", 2], ["image", 4])
    seen = []

    def counted(pixels, *arguments):
        seen.append(len(pixels))
        return adapter.image_tokens.own(pixels, *arguments)
    whole = model.logits(inputs)
    cache = model.new_cache(2, inputs.ids.shape[1] + 1)
    with swapped({adapter.image_tokens: counted}):
        parts = model.logits(inputs, cache)
    real = inputs.mask != 0
    np.testing.assert_allclose(parts[real], whole[real], rtol=1e-11, atol=1e-11)
    assert seen == [2, 2]
    other = model.new_cache(2, inputs.ids.shape[1])
    for i in range(config.num_hidden_layers):
        assert cache.layer(i).start == cache.length == inputs.ids.shape[1] and other.layer(i, 7).start == 7


@pytest.mark.skipif(build.cpu_runner() is not None, reason=str(build.cpu_runner()))
def test_the_kernels_read_by_parts(make_config, make_leaves, make_inputs, five_at_once):
    """The parts' places in the cache, and vision tokens by the language expert, as launches have them."""
    config = make_config("cogvlm2-video", num_key_value_heads=3)
    leaves, inputs = make_leaves(config, np.float32), make_inputs(config, [2, "image", 1, "image", 3], ["image", 4])
    engine = Engine(config, leaves)
    found = engine.logits(inputs, engine.new_cache(2, inputs.ids.shape[1]))
    expected = CogVLM(config, leaves).logits(inputs)
    real = inputs.mask != 0
    np.testing.assert_allclose(found[real], expected[real], rtol=2e-5, atol=2e-5 * np.abs(expected[real]).max())


def test_memory_stays_as_info_says():
    """24 frames of 66 tokens: beside the tokens' vectors no more than the scratch memory of one part."""
    vision = VisionConfig(24, 1, 2, 32, 14, 224)
    config = Config(259, 256, 704, 2, 2, 1, vision, "cogvlm2-video", 2048, bos_token_id=256, eos_token_id=257,
                    pad_token_id=258)
    random = np.random.default_rng(0)
    model = CogVLM(config, {name: random.standard_normal(shape).astype("f4") / 8
                            for name, shape in config.shapes().items()})
    clip = video.Video([Image.new("RGB", (30, 20), (9 * i, 0, 0)) for i in range(24)])
    inputs = prompt.build(config, ByteTokenizer(config), prompt.text("chat", "What happens?"), [clip])
    T, cache = inputs.ids.shape[1], model.new_cache(1, 2048)
    assert 3 * config.tokens_at_once < T
    tracemalloc.start()
    model.logits(inputs, cache, last=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    vectors = 4 * T * config.hidden_size
    assert peak < 4 * scratch(config) + 3 * vectors < 4 * T * (14 * 256 + 3 * 704)


# ----------------------------------------------------------------------------------------------------------- frames

COLOURS = [(25 * i, 255 - 25 * i, 40) for i in range(10)]


def shades(clip):
    """The red of each frame, in steps of COLOURS"""
    from tinycogvlm.inputs import image
    return [round(np.asarray(image.load(frame))[..., 0].mean() / 25) for frame in clip.frames]


def pictures(n):
    return [Image.new("RGB", (32, 24), colour) for colour in COLOURS[:n]]


def animated(path, n=4, **named):
    first, *rest = pictures(n)
    first.save(path, save_all=True, append_images=rest, **{"duration": [400, 1000, 1000, 1000][:n], **named})
    return path


@pytest.mark.parametrize("name, named", [("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True})])
def test_animated_pictures(name, named, tmp_path):
    """Frames begin at 0, 0.4, 1.4 and 2.4 s: the nearest to 0, 1 and 2 s; spread over all: each six times or so."""
    path = animated(tmp_path / name, **named)
    assert shades(video.read(path)) == [0, 2, 3]
    assert shades(video.read(path, most=2)) == [0, 2]
    spread = shades(video.read(path, "base"))
    assert len(spread) == 24 and spread == np.linspace(0, 3, 24, dtype=int).tolist()


def test_pictures_shown_for_no_time_count_a_tenth_of_a_second(tmp_path):
    path = animated(tmp_path / "a.gif", duration=[0, 0, 0, 0])
    assert shades(video.read(path)) == [0] and len(video.read(path, "base").frames) == 24


def test_only_the_first_minute_counts(tmp_path):
    """Pictures are shown at 0, 40, 80 and 81 s."""
    path = animated(tmp_path / "a.gif", duration=[40_000, 40_000, 1000, 1000])
    assert set(shades(video.read(path, "base"))) == {0, 1} and shades(video.read(path)) == [0] * 21 + [1] * 3


def test_a_folder_in_the_order_of_its_numbers(tmp_path):
    for i, picture in enumerate(pictures(10)):
        picture.save(tmp_path / f"frame{i + 3}.png")
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert shades(video.read(tmp_path)) == list(range(10))
    assert shades(video.read(tmp_path, fps=4.0)) == [0, 4, 8]
    assert shades(video.read(tmp_path, fps=0.5)) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9]


def film(path, codec="mpeg4", rate=10, frames=37, movflags="", **options):
    """A file of that many frames, each brighter than the one before"""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 6 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name, codec, options", [("a.mp4", "mpeg4", {}), ("a.mkv", "libx264", {"bf": "3"}),
                                                  ("a.mp4", "libx264", {"bf": "3"}), ("a.avi", "mpeg4", {})])
def test_films(name, codec, options, tmp_path):
    """Golden video 4 of cogvlm2_video: 37 frames, 10 a second. Also where frames are stored in another order."""
    clip = video.read(film(tmp_path / name, codec, **options))
    found = [np.asarray(frame).mean() / 6 for frame in clip.frames]
    np.testing.assert_allclose(found, [0, 10, 20, 30, 36], atol=0.5)
    spread = [np.asarray(frame).mean() / 6 for frame in video.read(tmp_path / name, "base").frames]
    np.testing.assert_allclose(spread, np.linspace(0, 36, 24, dtype=int), atol=0.5)


def test_what_is_no_video(tmp_path, monkeypatch):
    def refused(name, *said, content=None, **named):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            video.read(tmp_path / name, **named)
        assert str(tmp_path / name) in str(error.value) and all(words in str(error.value) for words in said)
    (tmp_path / "empty").mkdir()
    refused("empty", "no picture in it")
    pictures(1)[0].save(tmp_path / "empty" / "a.png")
    refused("empty", "a single picture in it; a video has 2 frames at least")
    refused("empty/a.png", "a single picture, not a video; ask without --video")
    refused("nowhere.mp4", "no such file")
    refused("nothing.gif", "the file is empty", content=b"")
    whole = animated(tmp_path / "a.gif").read_bytes()
    refused("cut.gif", "damaged or cannot be decoded", content=whole[:len(whole) // 2])
    monkeypatch.setattr(video, "TOO_MANY", 3)
    refused("a.gif", "more than 3 frames in its first minute")
    monkeypatch.setitem(sys.modules, "av", None)
    refused("words.mp4", "pip install 'tinycogvlm[video]'", content=b"words")
    with pytest.raises(UserError, match="no strategy 'best'; there are chat, base, spread"):
        video.read(tmp_path / "a.gif", "best")


def test_broken_films(tmp_path, monkeypatch):
    whole = film(tmp_path / "a.mp4").read_bytes()
    moov = whole.rindex(b"moov")
    for content, said in ((b"words", "can be decoded"), (whole[:200], "can be decoded"),
                          (whole[:60] + bytes(moov - 64) + whole[moov - 4:], "the video is damaged or cut short"),
                          (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "can be decoded")):
        (tmp_path / "b.mp4").write_bytes(content)
        with pytest.raises(UserError, match=f"b.mp4: .*{said}"):
            video.read(tmp_path / "b.mp4")
    with pytest.raises(UserError, match="a single picture in it"):
        video.read(film(tmp_path / "one.mp4", frames=1))
    early = film(tmp_path / "early.mp4", movflags="faststart").read_bytes()     # its index comes first
    assert early.index(b"moov") < early.index(b"mdat")
    for cut, said in ((50, "damaged or cut short"), (200, "cut short: 3[0-6] of its 37 frames are there")):
        (tmp_path / "b.mp4").write_bytes(early[:-cut])
        with pytest.raises(UserError, match=f"b.mp4: the video is {said}"):
            video.read(tmp_path / "b.mp4")
    monkeypatch.setattr(video, "TOO_MANY", 20)
    with pytest.raises(UserError, match="a.mp4: more than 20 frames"):
        video.read(tmp_path / "a.mp4")


# ---------------------------------------------------------------------------------------------------------- command

@pytest.fixture
def ask(toy, capsys):
    def ask(*arguments):
        code = main.main(["ask", "--weights", str(toy), *map(str, arguments)])
        return code, *capsys.readouterr()
    return ask


def test_ask_about_a_video(ask, tmp_path):
    path = animated(tmp_path / "a.gif")
    said = "A red star [[100,200,300,400]].\n"
    assert ask("--video", path, "What?") == ask(path, "What?", "--video") == (0, said, "")
    code, out, _ = ask("--video", path, "What?", "--json")
    report = json.loads(out)
    assert code == 0 and report["text"] == said.strip() and report["boxes"] == [] and report["frames"] == 3
    assert report["tokens_in"] == 1 + 3 * (6 + 1) + len("Question: What? Answer:")
    code, out, _ = ask("--video", path, "What?", "--json", "--strategy", "base")
    assert code == 0 and json.loads(out)["tokens_in"] == 1 + 24 * 6 + len("What?") and "no such" in out
    assert json.loads(ask("--video", path, "What?", "--json", "--frames", 2)[1])["frames"] == 2


def test_ask_about_a_film(ask, tmp_path):
    """37 frames, ten a second: the seconds 0 to 4, or five frames of all of them"""
    path = film(tmp_path / "a.mp4")
    for more in ((), ("--strategy", "spread", "--frames", 5)):
        code, out, error = ask("--video", path, "What?", "--json", *more)
        assert (code, error) == (0, "") and json.loads(out)["frames"] == 5
        assert json.loads(out)["tokens_in"] == 1 + 5 * (6 + 1) + len("Question: What? Answer:")


def test_as_many_frames_as_the_context_has_room_for(ask, tmp_path, monkeypatch):
    """512 tokens, of which 5 are the question and 100 the answer's; a frame has 6 and a number of two digits."""
    path = animated(tmp_path / "a.gif")
    monkeypatch.setattr(video, "MOST", 60)
    code, out, error = ask("--video", path, "What?", "--strategy", "base", "--json")
    assert code == 0 and json.loads(out)["frames"] == (512 - 5 - 100) // (6 + 2) == 50
    assert error == "tinycogvlm: this model's context has room for 50 frames, so no more are taken\n"
    code, out, error = ask("--video", path, "What?", "--strategy", "base", "--json", "--frames", 51)
    assert code == 0 and json.loads(out)["frames"] == 51 and error == ""
    assert ask("--video", path, "What?")[2] == ""                                       # three seconds, three frames


def test_frames_of_16_bits(ask, tmp_path):
    """What is lost is said, a sentence a frame; with --rescale nothing is."""
    (tmp_path / "frames").mkdir()
    for i in range(2):
        Image.fromarray(np.full((30, 40), 20_000 * (i + 1), np.uint16)).save(tmp_path / "frames" / f"{i}.png")
    code, _, error = ask("--video", tmp_path / "frames", "What?")
    assert code == 0 and [line.partition(": ")[0] for line in error.splitlines()] == ["tinycogvlm"] * 2
    assert "1.png" in error and "--rescale" in error
    assert ask("--video", tmp_path / "frames", "What?", "--rescale")[::2] == (0, "")
    dark, light = video.read(tmp_path / "frames", rescale=True).pixels(28)[:, 0].mean((1, 2))
    assert dark < light


def test_frames_of_any_size_and_with_alpha(tmp_path):
    """Each is cut to its own middle; a transparent pixel shows the colour under it, as in image.load."""
    for i, size in enumerate(((30, 40), (200, 20), (7, 7))):
        Image.new("RGBA", size, (*COLOURS[i], 9 * i)).save(tmp_path / f"{i}.png")
    clip = video.read(tmp_path)
    assert shades(clip) == [0, 1, 2] and clip.pixels(28).shape == (3, 3, 28, 28)
    clear = [Image.new("RGBA", (20, 20), (0, 0, 0, 0)) for _ in range(3)]
    for i, picture in enumerate(clear):
        picture.paste((255, 0, 0, 255), (5 * i, 0, 5 * i + 5, 20))
    clear[0].save(tmp_path / "a.gif", save_all=True, append_images=clear[1:], duration=1000, disposal=2)
    red = [np.argwhere(np.asarray(frame)[0, :, 0] > 200).ravel().tolist() for frame in video.read(tmp_path / "a.gif").frames]
    assert red == [[*range(5 * i, 5 * i + 5)] for i in range(3)]


def test_frames_at_uneven_times(tmp_path):
    """Frames at 0, 0.1, 0.2, 2, 2.1, 5, 5.1 and 5.2 s: the nearest to each second; spread: each with its second"""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time in enumerate((0, 100, 200, 2000, 2100, 5000, 5100, 5200)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip, spread = (video.read(tmp_path / "a.mp4", strategy) for strategy in ("chat", "spread"))
    for shown, wanted in ((clip, [0, 2, 3, 4, 5, 5]), (spread, range(8))):
        assert [round(np.asarray(frame).mean() / 30) for frame in shown.frames] == list(wanted)
    assert clip.seconds is None and spread.seconds == (0, 0, 0, 2, 2, 5, 5, 5)


def test_wrong_use(ask, picture, tmp_path):
    path = animated(tmp_path / "a.gif")
    for arguments, said in ((["--video", "-", "What?"], "--video needs one"), (["--fps", 2, picture, "What?"], "goes with"),
                            (["--video", path, "What?", "--out", "a.png"], "--out needs a picture, not a video"),
                            (["--video", path, "What?", "--strategy", "best"], "invalid choice")):
        code, out, error = ask(*arguments)
        assert (code, out) == (2, "") and said in error
    code, _, error = ask("--video", path, "What?", "--fps", 2)
    assert code == 1 and "a.gif: frames a second are given for a folder of pictures" in error
    code, _, error = ask("--video", picture, "What?")
    assert code == 1 and "a single picture, not a video" in error
    code, _, error = ask("--video", path, "What?", "--strategy", "base", "--frames", 100)
    assert code == 1 and "100 frames of 6 tokens and a number do not fit into the model's context of 512" in error
    assert "it holds 72 at most" in error
