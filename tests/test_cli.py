"""Every command, exit code and message, on a folder whose model says what the test wrote into its weights."""
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_model import ANSWER

from tinycogvlm import loading
from tinycogvlm.cli import answer, info, main, options
from tinycogvlm.errors import UserError
from tinycogvlm.inputs import prompt, video
from tinycogvlm.kernels import plan
from tinycogvlm.learn import course
from tinycogvlm.model.config import Config, VisionConfig
from tinycogvlm.storage.checkpoint import Checkpoint
from tinycogvlm.storage.safetensors_file import write_safetensors

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture
def run(toy, capsys):
    """run(command, ...) -> exit code, stdout, stderr; commands that take a model get the toy's folder."""
    def run(command, *arguments):
        weights = [] if command in ("info", "verify") or "--weights" in arguments else ["--weights", str(toy)]
        code = main.main([command, *weights, *map(str, arguments)])
        return code, *capsys.readouterr()
    return run


def test_ask(run, picture, tmp_path):
    assert run("ask", picture, "What is there?") == (0, ANSWER + "\n", "")
    assert run("ask", picture, "--seed", 3, "What is there?", "--stream") == (0, ANSWER + "\n", "")
    assert run("ask", "-", "What is there?") == (0, ANSWER + "\n", "")
    assert run("ask", picture, "What is there?", "--template", "base") == (0, "no such thing.\n", "")
    assert run("ask", picture, "What?", "--max-new-tokens", 1) == (0, "A red star\n", "")


def test_grey_of_sixteen_bits_is_said_to_be_clipped_or_rescaled(run, tmp_path):
    deep, out = tmp_path / "deep.png", tmp_path / "drawn.png"
    Image.fromarray(np.full((100, 200), 128 * 257, np.uint16)).save(deep)
    for command, *question in (("ask", "Where?"), ("ground", "star"), ("caption",)):
        code, _, err = run(command, deep, *question)
        assert code == 0
        assert err.splitlines()[0].startswith(f"tinycogvlm: {deep}: its 16-bit values were clipped to 0..255")
        assert run(command, deep, *question, "--rescale")[2] == ""
    for rescale, shade in (((), 255), (("--rescale",), 128)):
        run("ask", deep, "Where?", "--out", out, *rescale)
        assert Image.open(out).getpixel((350, 150)) == (shade,) * 3


def test_ask_json(run, picture):
    code, out, err = run("ask", picture, "What is there?", "--json")
    report = json.loads(out)
    assert (code, err, report.pop("seconds") > 0) == (0, "", True)
    # bos, 2 x 2 patches between boi and eoi, one token a character of the prompt
    assert report == {"text": ANSWER, "boxes": [[20, 20, 60, 40]], "tokens_out": 2, "finish": "stop",
                      "tokens_in": 1 + 6 + len("Question: What is there? Answer:")}
    without = json.loads(run("ask", "-", "What is there?", "--json")[1])
    assert without["boxes"] == []           # thousandths of no picture are no pixels
    assert without["tokens_in"] == 1 + len(prompt.text("vicuna", "What is there?"))


def test_an_answer_that_is_cut_says_so(run, picture):
    """In JSON always; else on stderr, unless the limit was given."""
    for command, *question in (("ask", "What is there?"), ("caption",)):
        report = json.loads(run(command, picture, *question, "--json", "--max-new-tokens", "1")[1])
        assert (report["text"], report["finish"]) == ("A red star", "length")
    assert run("ask", picture, "What is there?", "--max-new-tokens", "1") == (0, "A red star\n", "")
    question = "x" * (512 - 1 - 6 - len("Question:  Answer:") - 1)            # room for one token
    code, out, err = run("ask", picture, question)
    assert (code, out) == (0, "A red star\n")
    assert err == "tinycogvlm: the answer was cut, by the end of the context or after 2048 tokens\n"


def test_a_full_context_names_clear(run, monkeypatch):
    room = 512 - len(prompt.text("vicuna", "")) - 1
    lines = ["What is there?", "x" * (room - 1), "/clear", "x" * (room - 1)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    code, out, err = run("chat")
    full, cut = err.splitlines()
    assert (code, out) == (1, f"{ANSWER}\nA red star\n")
    assert full.endswith("the model's context is 512 tokens; /clear forgets the conversation")
    assert cut.startswith("tinycogvlm: the answer was cut") and cut.endswith("; /clear forgets the conversation")


FINITE = ("the logits are not finite numbers: the weights are damaged, or a number became larger than float16 holds, "
          "which --activations float32 avoids; --check-finite names the first layer")


def damaged(toy, folder, name, value):
    """A copy of the toy with one number of a tensor changed."""
    shutil.copytree(toy, folder)
    tensors = {key: np.array(tensor.numpy()) for key, tensor in Checkpoint(folder).items()}
    tensors[name].flat[0] = value
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.mark.parametrize("name, value, first", [
    ("model.norm.weight", np.nan, "lm/norm_out"), ("lm_head.weight", np.inf, "lm/logits"),
    ("model.layers.0.mlp.language_mlp.down_proj.weight", np.nan, "lm/layer0/mlp_out")])
@pytest.mark.parametrize("options", [(), ("--temperature", "0.7"), ("--json",), ("--json", "--top-p", "0.5",
                                                                                "--temperature", "1")])
def test_weights_that_are_not_numbers_are_one_sentence(run, toy, picture, tmp_path, name, value, first, options):
    weights = damaged(toy, tmp_path / "damaged", name, value)
    for command, *question in (("ask", "Where?"), ("ground", "star"), ("caption",)):
        code, out, err = run(command, picture, *question, *options, "--weights", weights)
        assert (code, out, err) == (1, "", f"tinycogvlm: {FINITE}\n")
    named = f"tinycogvlm: {first} is the first tensor that is not finite: it holds NaN or infinity\n"
    code, out, err = run("ask", picture, "Where?", *options, "--weights", weights, "--check-finite")
    assert (code, out, err) == (1, "", named)
    if not options:
        asked = ("eval", "--scenes", "1", "--no-baselines", "--weights", weights)
        assert run(*asked) == (1, "", f"tinycogvlm: {FINITE}\n")
        assert run(*asked, "--check-finite") == (1, "", named)


def test_chat_goes_on_after_logits_that_are_not_numbers(run, toy, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n/clear\nb"))
    weights = damaged(toy, tmp_path / "damaged", "model.norm.weight", np.nan)
    code, out, err = run("chat", "--weights", weights, "--temperature", "1")
    assert (code, out, err) == (1, "", f"tinycogvlm: {FINITE}\n" * 2)


def test_a_repetition_penalty_out_of_all_proportion(run, picture):
    ask = ("ask", picture, "What is there?", "--temperature", "1")
    code, out, err = run(*ask, "--repetition-penalty", "1e-300")
    assert (code, out) == (2, "") and "repetition_penalty is 1e-300; it must be a number from 1e-30 to 1e30" in err
    assert run(*ask, "--repetition-penalty", "1e-30", "--max-new-tokens", "3")[0] == 0


def test_a_malformed_box_is_reported(run, picture):
    code, out, err = run("ask", picture, "Go!", "--template", "base", "--json")
    assert code == 0 and json.loads(out)["boxes"] == []
    assert err == "tinycogvlm: ignored a malformed box: '[[1,2,3]]': 3 numbers instead of 4\n"


@pytest.mark.parametrize("command, said", [("ask", "Where?"), ("ground", "star")])
@pytest.mark.parametrize("kind", ["png", "JPG", "webp"])
def test_out_is_the_picture_with_its_box(run, picture, tmp_path, command, said, kind):
    out = tmp_path / f"boxed.{kind}"
    out.write_text("an older file")
    assert run(command, picture, said, "--out", out) == (0, ANSWER + "\n", f"{out}: 1 box drawn\n")
    with Image.open(out) as drawn:
        assert drawn.size == (400, 200)     # a small picture is enlarged, see grounding.draw
        r, g, b = drawn.convert("RGB").getpixel((80, 79))       # the box's lower edge: 400/1000 x 200
        assert r > 180 and g < 70 and b < 100
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, "picture.png"])


def test_ground(run, picture):
    assert run("ground", picture, "the star") == (0, ANSWER + "\n", "")
    code, out, _ = run("ground", picture, "the star", "--json")
    assert (code, json.loads(out)["boxes"]) == (0, [[20, 20, 60, 40]])
    assert json.loads(out)["tokens_in"] == 7 + len("Question: Where is the star? Answer:")
    asked = prompt.BOX_OF_PHRASE.format(phrase="a {b}")
    assert json.loads(run("ground", picture, "a {b}", "--json", "--template", "base")[1])["tokens_in"] == 7 + len(asked)


def test_a_box_that_does_not_come_is_a_failure_with_the_answer(run, picture, tmp_path):
    base, out = ("--template", "base"), tmp_path / "boxed.png"
    assert run("ground", picture, "a fox", *base) == (1, "no such thing.\n", "tinycogvlm: no box in the answer\n")
    for command in ("ground", "ask"):
        code, said, err = run(command, picture, "Where?", *base, "--out", out, "--json")
        assert (code, json.loads(said)["text"]) == (1, "no such thing.")
        assert err == f"tinycogvlm: no box in the answer; {out} is not written\n"
    assert os.listdir(tmp_path) == ["picture.png"]


def test_caption(run, picture, tmp_path):
    assert run("caption", picture) == (0, ANSWER + "\n", "")
    code, out, err = run("caption", picture, tmp_path / "none.png", picture)
    assert (code, out) == (1, f"{picture}: {ANSWER}\n" * 2)
    assert err == f"tinycogvlm: {tmp_path / 'none.png'}: no such file\n"
    code, out, _ = run("caption", picture, picture, "--json")
    reports = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [(report["image"], report["text"]) for report in reports] == [(picture, ANSWER)] * 2
    assert reports[0]["tokens_in"] == 7 + len("Question: Describe the image. Answer:")


def test_a_conversation(run, picture, monkeypatch):
    lines = ["/help", "Hello", "", "/clear", f'/image "{picture}"', "Hello?", "/image none.png", "/what", "x" * 600]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    code, out, err = run("chat")
    assert (code, out) == (1, f"{ANSWER}\n" * 2)           # stdin is not a terminal: a script wants to know
    usage, missing, unknown, long = err.split("tinycogvlm: ")
    assert usage.count("\n") == 3 and all(word in usage for word in ("/clear", "/image PATH", "/quit"))
    assert missing == "none.png: no such file\n" and unknown == f"no command /what\n{usage}"
    assert "the model's context is 512" in long


def test_the_picture_of_a_conversation(run, picture, monkeypatch):
    lines = ["\ufeff/image", "/image ''", "/image ~/picture.png", "Hello?", "/image ~/none.png"]
    monkeypatch.setenv("HOME", str(Path(picture).parent))
    monkeypatch.setenv("USERPROFILE", str(Path(picture).parent))
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    code, out, err = run("chat")
    assert (code, out) == (1, f"{ANSWER}\n")
    assert err == ("tinycogvlm: /image needs the path of a picture\n" * 2
                   + f"tinycogvlm: {Path(picture).parent / 'none.png'}: no such file\n")


def test_a_conversation_remembers_and_forgets(run, picture, monkeypatch):
    heard = []

    def stream(model, image, question, history, template, max_new_tokens, **sampling):
        heard.append((question, list(history), image is not None, template, max_new_tokens, sampling["seed"]))
        for word in ("first", " last"):
            yield word
            if question == "stop":
                raise KeyboardInterrupt
    monkeypatch.setattr("tinycogvlm.CogVLM.stream", stream)
    lines = ["a", "stop", "c", "/clear", "d", f"/image {picture}", "e", "/quit", "f"]
    monkeypatch.setattr("sys.stdin", typed := io.StringIO("\n".join(lines)))
    assert run("chat", picture, "--max-new-tokens", "9")[:2] == (130, "first last\nfirst\n")   # a pipe: Ctrl-C ends it
    heard.clear()
    typed.seek(0)
    typed.isatty = lambda: True
    code, out, err = run("chat", picture, "--template", "vqa", "--max-new-tokens", "9", "--seed", "4")
    assert (code, err) == (0, "/help lists the commands\n")
    assert out.replace("> ", "").splitlines() == ["first last", "first", "first last", "first last", "first last"]
    a, stop = ("a", "first last"), ("stop", "first")
    assert [h[:2] for h in heard] == [("a", []), ("stop", [a]), ("c", [a, stop]), ("d", []), ("e", [])]
    assert {h[2:] for h in heard} == {(True, "vqa", 9, 4)}


def test_info_of_real_geometries(run, tmp_path):
    """The whole of both real models from their config.json alone: parameters as in their repositories."""
    v1 = Config(32000, 4096, 11008, 32, 32, 32, VisionConfig(1792, 63, 16, 15360, 14, 490))
    v2 = Config(128256, 4096, 14336, 32, 32, 8, VisionConfig(1792, 63, 16, 15360, 14, 1344), "cogvlm2",
                8192, 1e-5, 128000, 128001, 128002)
    for config, total, tokens, per_token, flops in ((v1, 17_639_685_376, 1227, 6_607_343_616, 27.4e12),
                                             (v2, 19_503_105_280, 2306, 7_504_924_672, 151e12)):
        config.write(tmp_path)
        code, out, err = run("info", tmp_path, "--json")
        report = json.loads(out)
        assert (code, err, report["stored"], report["image"]["tokens"]) == (0, "", None, tokens)
        *parts, whole = report["parameters"].values()
        assert sum(parts) == whole == total and report["parameters_per_decoded_token"] == per_token
        memory = report["memory"]
        assert memory["cpu, float32"]["weights"] == 4 * total and memory["gpu, float16"]["weights"] == 2 * total
        keys_and_values = 2 * 32 * config.num_key_value_heads * 128 * config.max_position_embeddings
        assert memory["cpu, float32"]["cache"] == 4 * keys_and_values
        assert memory["cpu, float32, stream"]["weights"] < 4e9
        assert report["flops_per_picture"] == pytest.approx(flops, rel=0.01)
        code, out, err = run("info", tmp_path)
        assert code == 0 and f"{total:,}" in out and "no weights in this folder" in out


def test_info_of_a_folder_with_weights(run, toy):
    report = json.loads(run("info", GOLDEN / "v1_bf16", "--json")[1])
    assert report["stored"] == {"files": 1, "bytes": 2 * report["parameters"]["total"] + 2 * 2 * 12, "dtypes": ["BF16"]}
    code, out, err = run("info", toy)
    assert (code, err) == (0, "") and f"{info.report(toy)['parameters']['total']:,}" in out and "F32" in out


def test_verify(run, tmp_path):
    code, out, err = run("verify", GOLDEN / "v1_tiny", "--json")
    assert (code, err) == (0, "") and json.loads(out)
    shutil.copytree(GOLDEN / "v1_tiny", tmp_path / "case")
    weights = tmp_path / "case" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + np.float32(9).tobytes())        # the last tensor's last number
    code, out, err = run("verify", tmp_path / "case")
    assert code == 1 and out.count("\n") > 10


def test_what_is_wrong_is_one_sentence(run, toy, picture, tmp_path):
    (tmp_path / "no picture.png").write_text("text")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no-tokenizer").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(toy / name, tmp_path / "no-tokenizer")
    for folder, name, content in (("adapter", "adapter_config.json", "{}"), ("other", "config.json", '{"a": "llama"}')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content)
    (tmp_path / "cut").mkdir()
    shutil.copy(toy / "config.json", tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes((toy / "model.safetensors").read_bytes()[:-1])
    ask = ("ask", picture, "What?")
    for arguments, part in (
            (("ask", tmp_path / "none.png", "What?"), "none.png: no such file"),
            (("ask", tmp_path / "no picture.png", "What?"), "not a picture"),
            (("ask", tmp_path, "What?"), "a folder, not a picture"),
            ((*ask, "--weights", tmp_path / "nowhere"), "nowhere"),
            ((*ask, "--weights", tmp_path / "empty"), "config.json: cannot be read"),
            ((*ask, "--weights", tmp_path / "cut"), "truncated"),
            ((*ask, "--weights", tmp_path / "no-tokenizer"), "no tokenizer"),
            ((*ask, "--tokenizer", tmp_path / "file"), "file"),
            ((*ask, "--rotary", "stored"), "needs rotary_emb.inv_freq"),
            ((*ask, "--dtype", "float16"), "float32, float64 on the device 'cpu'"),
            ((*ask, "--device", "cuda:99"), "'cuda:99'"),
            *(((*ask, "--image-size", size), f"the image size is {size}; it must be a whole number from 14,")
              for size in ("1", "13", "12000", "9" * 18)),
            ((*ask, "--max-new-tokens", "9999"), "exceed the model's context of 512"),
            (("ask", picture, "x" * 999), "the model's context is 512"),
            ((*ask, "--out", tmp_path / "x.nothing"), "no picture format has the ending '.nothing'"),
            ((*ask, "--out", tmp_path / "x"), "no picture format"),
            ((*ask, "--out", tmp_path / "none" / "x.png"), "cannot be written"),
            ((*ask, "--out", tmp_path / "file" / "x.png"), "cannot be written"),
            (("caption", tmp_path / "none.png"), "none.png: no such file"),
            (("ground", tmp_path / "none.png", "a star"), "none.png: no such file"),
            (("chat", tmp_path / "none.png"), "none.png: no such file"),
            (("info", tmp_path / "empty"), "config.json: cannot be read"),
            (("info", tmp_path / "cut"), "truncated"),
            (("info", tmp_path / "adapter"), "the folder holds a LoRA adapter, which is added to a model with --lora"),
            (("info", tmp_path / "file"), "file: not valid JSON"), (("info", picture), "picture.png: not UTF-8 text"),
            (("info", tmp_path / "other"), "other/config.json: no CogVLM config: the object vision_config is missing"),
            (("verify", tmp_path / "empty"), "empty")):
        code, out, err = run(*arguments)
        assert (code, out) == (1, ""), arguments
        assert err.startswith("tinycogvlm: ") and err.count("\n") == 1 and part in err, arguments


def test_an_unwritable_out_is_known_before_the_model_runs(run, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(answer, "load", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "folder.png").mkdir()
    for out in ("x.xyz", "none/x.png", "folder.png", "x.svg", "x.h5"):
        for command in ("ask", "ground"):
            code, said, err = run(command, picture, "x", "--out", tmp_path / out)
            assert (code, said) == (1, "") and out.split("/")[-1] in err
    assert sorted(os.listdir(tmp_path)) == ["folder.png", "picture.png"]


@pytest.mark.parametrize("error, code, part", [
    (MemoryError(), 1, "with --stream"), (KeyboardInterrupt(), 130, ""),
    (OSError(28, "No space left", "x"), 1, "x: No space left"),
    (ImportError("advice\n\nOriginal error: x.so: failed to map\n"), 1, "(Original error: x.so: failed to map): the"),
    (SystemError("error return without exception set"), 1, "a package cannot be loaded (error return")])
def test_what_may_happen_anywhere(run, picture, monkeypatch, error, code, part):
    def load(*_, **__):
        raise error
    monkeypatch.setattr(answer, "load", load)
    got, out, err = run("ask", picture, "x")
    assert (got, out) == (code, "") and part in err and err.count("\n") == (code == 1)
    if isinstance(error, MemoryError):
        assert "--image-size" in run("ask", picture, "x", "--stream")[2]


@pytest.mark.filterwarnings("error")
def test_numpy_does_not_warn(run, picture, monkeypatch):
    """What overflows is told by the sentence about NaN and infinity, if it matters."""
    def load(*_, **__):
        np.float32(3e38) * np.float32(10)
        raise UserError("numbers are not finite")
    monkeypatch.setattr(answer, "load", load)
    assert run("ask", picture, "What?") == (1, "", "tinycogvlm: numbers are not finite\n")


@pytest.mark.parametrize("arguments", [
    [], ["draw"], ["ask"], ["ask", "x.png"], ["caption"], ["ground", "x.png"], ["info"], ["verify"], ["info", "a", "b"],
    ["ask", "-", "x", "--out", "y.png"], ["ask", "x", "y", "--device", "gpu"], ["ask", "x", "y", "--device", "cuda:"],
    ["ask", "x", "y", "--dtype", "int3"], ["ask", "x", "y", "--template", "old"], ["ask", "x", "y", "--rotary", "no"],
    ["ask", "x", "y", "--temperature", "-1"], ["ask", "x", "y", "--temperature", "nan"], ["chat", "--json"],
    ["ask", "x", "y", "--temperature", "hot"], ["ask", "x", "y", "--top-p", "0"], ["ask", "x", "y", "--top-p", "1.1"],
    ["ask", "x", "y", "--top-k", "0"], ["ask", "x", "y", "--repetition-penalty", "0"],
    ["ask", "x", "y", "--seed", "-1"],
    ["ask", "x", "y", "--max-new-tokens", "0"], ["ask", "x", "y", "--image-size", "1.5"]])
def test_wrong_usage(arguments, capsys):
    code = main.main(arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("tinycogvlm: ") and err.count("\n") == 1


def test_the_options_name_what_the_modules_take():
    """options.py writes these out, so that --help imports neither NumPy nor the model."""
    assert (*prompt.TEMPLATES, prompt.OWN) == options.TEMPLATES
    assert ("float64", *plan.DTYPES) == options.DTYPES and plan.ACTIVATIONS == options.ACTIVATIONS
    assert options.ROTARY == loading.ROTARY and options.STRATEGIES == video.STRATEGIES
    assert options.LEARNER == course.FOLDER


def test_serving_needs_packages_that_may_be_missing(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, out, err = run("serve")
    assert (code, out) == (1, "") and "serving needs the packages starlette and uvicorn" in err and err.count("\n") == 1


def test_every_training_has_the_folder_that_its_help_names():
    """argparse shares the defaults of a parent among all parsers: LoRA's once became that of every stage."""
    for stage in options.STAGES:
        assert options.parser().parse_args(["train", stage]).out == Path("runs", "tiny")
    assert options.parser().parse_args(["train", "lora", "--data", "x"]).out == Path("runs", "lora")


@pytest.mark.parametrize("arguments", ["--version", "--help", "ask --help", "train --help", "learn --help", "ask x"])
def test_help_and_usage_do_not_import_numpy(arguments):
    code = ("import sys; from tinycogvlm.cli import main; "
            f"main.main({arguments.split()}); assert 'numpy' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (0, arguments == "ask x")


@pytest.mark.parametrize("command", ["ask", "caption", "ground", "chat", "look", "serve", "kernel", "info", "verify"])
def test_help(command, capsys):
    code = main.main([command, "--help"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "") and out.startswith(f"usage: tinycogvlm {command}")
