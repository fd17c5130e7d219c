"""The benchmark's table has all its rows; the dump of a reference model is a case that `verify` accepts."""
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinycogvlm.nn import trace
from tinycogvlm.verify.case import Case
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.storage.checkpoint import Checkpoint
from tinycogvlm.inputs.prompt import Inputs, images
from tinycogvlm.verify.compare import verify

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_cpu_prints_every_row():
    run = subprocess.run([sys.executable, ROOT / "benchmarks" / "cpu.py", "--quick"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = [line.strip("|") for line in run.stdout.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert [row[0] for row in rows[1:]] == [
        "sgemm, large square", "sgemv, large matrix", "image encode", "prefill, 34 tokens", "image and prefill",
        "decode, a token", "its bare matrix products", "peak memory of an answer", "import tinycogvlm"]
    for name, median, best, rate, share, *_ in rows[3:8]:
        assert re.fullmatch(r"\d+\.\d\d ms", median) and re.fullmatch(r"\d+\.\d\d ms", best), name
        assert re.fullmatch(r"\d+\.\d (GFLOP|GB)/s", rate) and re.fullmatch(r"\d+% of sgem[mv]", share), name
    assert [row[5] for row in rows[3:]] == ["50%", "70%", "", "70%", "", "360 MB", "150 ms"]


def test_operations_are_those_of_the_matrix_products(monkeypatch):
    """The formulas of the table against the shapes of the products that really happen."""
    cpu, case = script("cpu"), Case.read(GOLDEN / "v1_eps")
    config, inputs, count = case.config, cpu.inputs_of(case), {"operations": 0}
    linear = cpu.adapter.ops.linear

    def counted(x, weight, bias=None):
        count["operations"] += 2 * x.size // x.shape[-1] * weight.size
        return linear(x, weight, bias)

    monkeypatch.setattr(cpu.adapter.ops, "linear", counted)
    leaves = dict(case.leaves(lambda array: array).items())
    cpu.CogVLM(config, leaves).logits(inputs, last=True)
    T, P = inputs.ids.shape[1], config.vision.grid ** 2
    attention = 2 * config.num_hidden_layers * config.hidden_size * T * (T + 1)
    attention += 4 * config.vision.num_hidden_layers * config.vision.hidden_size * (P + 1) ** 2
    assert cpu.image_operations(config) + cpu.prefill_operations(config, T) == count["operations"] + attention


@pytest.mark.parametrize("checkpoint", [False, True])
def test_nothing_turns_float32_into_float64(checkpoint):
    """One float64 scalar array or table would double the time and memory of all that follows it, silently."""
    case = Case.read(GOLDEN / "v2_grads")
    inputs = Inputs(*(case[f"in/{name}"] for name in ("input_ids", "token_type_ids", "attention_mask")),
                    images(case["img/pixel_values"]))
    model = CogVLM(case.config, dict(case.leaves(lambda array: array).items()))
    with trace.recording() as records:
        _, pull = model.loss(inputs, inputs.ids, checkpoint=checkpoint)
    gradients = pull()
    assert len(records) > 40 and set(gradients) == set(model.parameters)
    assert {array.dtype.name for array in gradients.values()} == {"float32"}
    assert not {name: array.dtype for name, array in records.items() if array.dtype.name not in ("float32", "bool")}


def test_dump_keeps_the_rows_that_the_case_reads(tmp_path):
    dump = script("reference_dump")
    array = np.arange(2 * 37.0).reshape(1, 37, 2).astype(np.float32)
    assert dump.slices("x@last", array).tolist() == [[72, 73]]
    config = json.loads((GOLDEN / "v1_eps" / "config.json").read_text(encoding="utf-8"))
    weights = {name: Tensor(tensor.numpy()) for name, tensor in Checkpoint(GOLDEN / "v1_eps").items()}
    dump.write_case(tmp_path, config, weights, {"lm/out@rows": dump.slices("lm/out@rows", array)}, {"slim": True})
    case = Case.read(tmp_path)
    rows = case.indices("rows", 37)
    assert rows == [0, 1, 2, 9, 18, 35, 36] == case.indices("vrows", 37) == case.indices("arows", 37)
    assert np.array_equal(case["lm/out@rows"], array[:, rows])
    assert case.config == Case.read(GOLDEN / "v1_eps").config
    assert all(np.array_equal(case.checkpoint[name].numpy(), tensor.array) for name, tensor in weights.items())


class Tensor:
    """As much of torch.Tensor as writing takes."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.array


@pytest.mark.parametrize("name", ["v1_tiny", "v1_eps"])
def test_dump_of_a_reference_model_is_a_case_that_verify_accepts(tmp_path, name):
    """With modules named like the original's, in PyTorch (reference_modules.py); the original itself is not at hand."""
    torch = pytest.importorskip("torch", reason="the reference's dump needs PyTorch")
    dump, reference, case = script("reference_dump"), script_of_tests("reference_modules"), Case.read(GOLDEN / name)
    model = reference.CogVLMForCausalLM(case.config)
    state = {key: torch.from_numpy(np.array(tensor.numpy())) for key, tensor in case.checkpoint.items()}
    model.load_state_dict(state)
    inputs = {key: torch.tensor(case[f"in/{key}"]) for key in ("input_ids", "token_type_ids", "attention_mask")}
    pixels = torch.tensor(case["img/pixel_values"])
    tensors = dump.collect(model, inputs, pixels)
    tensors["img/raw"] = case["img/raw"]
    config = json.loads((GOLDEN / name / "config.json").read_text(encoding="utf-8"))
    spec = {"slim": True, "query": case.spec["query"], "history": case.spec.get("history", [])}
    dump.write_case(tmp_path, config, model.state_dict(), tensors, spec)

    report = verify(tmp_path)
    assert report.ok, report.table()
    names = {row.name for row in report.rows}
    expected = set(Case.read(GOLDEN / "v1_medium").recorded["activations.safetensors"]) - {"gen/ids", "gen/logits"}
    layers, vision_layers = case.config.num_hidden_layers, case.config.vision.num_hidden_layers
    assert names >= {key for key in expected if all(
        int(i) < (layers if part == "lm" else vision_layers) for part, i in re.findall(r"(lm|vit)/layer(\d+)", key))}

    with torch.no_grad():                                   # and the dump shows what the weights do not say
        model.model.layers[1].post_attention_layernorm.eps = 0.1
        tensors |= dump.collect(model, inputs, pixels)
    dump.write_case(tmp_path, config, model.state_dict(), tensors, spec)
    assert verify(tmp_path).first_failure.name == "lm/layer1/out@rows"


def script_of_tests(name):
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        return __import__(name)
    finally:
        sys.path.pop(0)


def test_captions_ratios_are_those_of_each_round():
    """Rounds on a machine that was three times slower in the second one"""
    caption = script("caption")
    seconds = {"one by one": 12, "in batches of 16": 5, "2 workers": 2.5, "4 workers": 3}
    rounds = [{way: {"seconds": slow * each, "cpu": 6 * slow} for way, each in seconds.items()} for slow in (1, 3)]
    rounds[1]["2 workers"]["seconds"] = 6
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in caption.table(caption.WAYS, rounds, 60)]
    cores = caption.CORES
    assert rows[2:] == [
        ["one by one", "2.5", "200.0", "1.00 (1.00 to 1.00)", "", ""],
        ["in batches of 16", "6.0", "200.0", "2.40 (2.40 to 2.40)", "2.2", "100%"],
        ["2 workers", "14.1", "200.0", "5.40 (4.80 to 6.00)", "4.0", f"{2.25 / min(2, cores):.0%}"],
        ["4 workers", "10.0", "200.0", "4.00 (4.00 to 4.00)", "", f"{5 / 3 / min(4, cores):.0%}"]]


def test_captions_must_be_the_same_in_every_way():
    caption = script("caption")
    found = {way: {"captions": ["A dog.", "A cat."]} for way in caption.WAYS}
    caption.check(found)
    found["2 workers"] = {"captions": ["A dog.", "A hat."]}
    with pytest.raises(AssertionError, match="2 workers, picture 1: 'A hat.', alone 'A cat.'"):
        caption.check(found)


def test_a_million_pictures_on_paper(monkeypatch):
    """The table of docs/captioning.md; its 17B column from the shapes of the paper's model, added up here by hand"""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    lines = list(script("caption").paper())
    assert "\n".join(lines) in (ROOT / "docs" / "captioning.md").read_text(encoding="utf-8")
    expert = 32 * (4 * 4096 ** 2 + 3 * 4096 * 11008)        # of the language model, and of the pictures
    tower = 63 * (4 * 1792 ** 2 + 2 * 1792 * 15360) * 2 * 1226 + 63 * 4 * 1226 ** 2 * 1792
    first = (tower + 2 * 1278 * expert + 32 * 2 * 4096 * 1278 ** 2) / (64 * 5.5e12) * 1e6 / 3600
    read = 4 * 2 * (expert + 32000 * 4096) + 16 * 1328 * 32 * 2 * 4096 * 2          # bytes of a token of 16 answers
    others = 99 * read / 16 / 4.3e12 * 1e6 / 3600
    found = [float(re.search(r"[\d.]+", line.split("|")[2])[0]) for line in lines[6:10]]
    assert found == pytest.approx([first, others, first + others, (first + others) * 60 / 64], abs=0.6)


@pytest.mark.slow
def test_captions_are_timed(capsys):
    caption = script("caption")
    caption.main(["--pictures", "3", "--rounds", "1"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == list(caption.WAYS) and all(float(row[1]) > 0 < float(row[2]) for row in rows)


@pytest.mark.slow
def test_a_server_is_loaded(capsys, monkeypatch):
    """One client and two, of a server that answers one by one and of one that answers together; good and bad requests"""
    pytest.importorskip("uvicorn")
    serve = script("serve")
    monkeypatch.setattr(serve, "CLIENTS", (1, 2))
    serve.main(["--seconds", "0.3", "--turns", "1"])
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [[int(cell) for cell in row] for row in rows] == [[1, 1], [1, 16], [2, 1], [2, 16]]
    serve.main(["--load", "16"])
    out = capsys.readouterr().out
    assert "good: right, 6 times" in out and "21 MB: refused with 413, 2 times" in out
    monkeypatch.setattr(serve, "EXPECTED", serve.EXPECTED - {("early leaver", "left")})
    with pytest.raises(SystemExit, match="not as they should be: .*early leaver"):
        serve.main(["--load", "8"])


def test_of_a_server_ratios_are_those_of_each_turn():
    serve = script("serve")
    turns = [{(8, 1): (2, [1.0] * 20), (8, 16): (3, [0.1 * i for i in range(20)])},
             {(8, 1): (1, [2.0] * 20), (8, 16): (2, [0.5] * 20)}]
    assert list(serve.table(turns))[2:] == [
        "| 8 | 1 | 1.5 | 1.00 (1.00 to 1.00) | 1500 ms | 2000 ms |", "| 8 | 16 | 2.5 | 1.75 (1.50 to 2.00) | 500 ms | 1700 ms |"]
