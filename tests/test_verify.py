"""`verify` itself: whatever is wrong with a case is found and named, and a right case of any kind passes."""
import json
import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from tinycogvlm.inputs import image, prompt
from tinycogvlm.model import generate
from tinycogvlm.nn import trace
from tinycogvlm.verify.case import ACTIVATIONS, GRADS, META, WEIGHTS, Case, values
from tinycogvlm.model.decoder import KVCache, Rotary
from tinycogvlm.errors import UserError
from tinycogvlm.model.cogvlm import CogVLM
from tinycogvlm.storage.checkpoint import Checkpoint
from tinycogvlm.storage.safetensors_file import write_safetensors
from tinycogvlm.verify.replay import replay
from tinycogvlm.model.route import position_ids
from tinycogvlm.inputs.tokenizer import ByteTokenizer
from tinycogvlm.verify.compare import compare, compare_tensor, verify
from tinycogvlm.nn.arrays import round_to

GOLDEN = Path(__file__).parent / "golden"
CASES = ["v1_grads", "v2_tiny", "v1_bf16"]


@lru_cache
def replayed(name):
    case = Case.read(GOLDEN / name)
    computed, failures = replay(case)
    assert not failures
    return case, computed


def changed(case, file, name, array):
    """The case with another tensor under this name; None takes it away."""
    tensors = {key: tensor for key, tensor in case.recorded[file].items() if key != name}
    if array is not None:
        tensors[name] = array
    return replace(case, recorded={**case.recorded, file: tensors})


def recorded(case):
    return [(file, name) for file in (ACTIVATIONS, GRADS, META) for name in case.recorded.get(file, ())]


@pytest.mark.parametrize("name", CASES)
def test_ten_tolerances_in_any_tensor_fail(name):
    case, computed = replayed(name)
    random = np.random.default_rng(0)
    for file, tensor in recorded(case):
        value = computed[file, tensor]
        array = np.array(values(case.recorded[file][tensor]))
        row = compare_tensor(case, file, tensor, value)
        assert row.verdict == "ok", row
        counts = np.broadcast_to(True if value.counts is None else value.counts, array.shape)
        index = tuple(random.choice(np.argwhere(counts))) if array.ndim else ()
        if array.dtype == bool:
            array[index] = not array[index]
        elif array.dtype.kind in "iu":
            array[index] += 1
        else:
            largest = float(np.abs(np.where(counts, array, 0)).max())
            tolerance = np.broadcast_to(value.tolerance(largest), array.shape)[index]
            array[index] += 10 * tolerance if tolerance else 1e-6
        row = compare_tensor(changed(case, file, tensor, array), file, tensor, value)
        assert row.verdict == "FAIL" and (row.file, row.name) == (file, tensor)
        if file != META:                                        # flattened there
            assert row.worst[0][0] == tuple(index) and row.worst[0][2] == pytest.approx(float(array[index]))


@pytest.mark.parametrize("name", CASES)
def test_what_any_tensor_must_be(name):
    """NaN, a wrong shape, a wrong dtype, an unknown name, no tensor at all: each fails under the tensor's own name."""
    case, computed = replayed(name)
    for file, tensor in recorded(case):
        array, value = np.array(values(case.recorded[file][tensor])), computed[file, tensor]
        wrong = {"shape": array[None], "dtype": array.astype(np.float64 if array.dtype != np.float64 else np.float32)}
        if array.dtype.kind == "f":
            wrong["NaN"] = np.full_like(array, np.nan)
            wrong["infinity"] = array.copy()
            wrong["infinity"][(-1,) * array.ndim] = np.inf
        if file == META:
            wrong.pop("dtype")
        for what, array in wrong.items():
            row = compare_tensor(changed(case, file, tensor, array), file, tensor, value)
            assert row.verdict == "FAIL" and what in row.detail, (tensor, row)
        if file != META:
            assert tensor in changed(case, file, tensor, None).missing()[file], tensor
    assert [row.name for row in compare(case, computed) if row.verdict != "ok"] == []
    unknown = changed(case, ACTIVATIONS, "lm/layer0/extra", np.zeros(3, np.float32))
    assert [(row.name, row.detail) for row in compare(unknown, computed) if row.verdict != "ok"] == \
        [("lm/layer0/extra", "unknown: no check covers it")]


def test_every_weight_is_checked():
    for name in CASES:
        case, _ = replayed(name)
        for tensor in case.recorded[WEIGHTS]:
            if not tensor.endswith("inv_freq"):
                assert changed(case, WEIGHTS, tensor, None).missing()[WEIGHTS] == [tensor]


# From here on through files

@pytest.fixture
def copy(tmp_path):
    def of(name):
        return Path(shutil.copytree(GOLDEN / name, tmp_path / name))
    return of


def rewrite(path, change):
    """Write a safetensors file again after change({name: array or Tensor})."""
    tensors = {name: np.array(values(tensor)) if tensor.dtype != "BF16" else tensor
               for name, tensor in Checkpoint(path).items()}
    change(tensors)
    path.unlink()
    write_safetensors(path, tensors)


def add(name, index, amount):
    def change(tensors):
        tensors[name][index] += amount
    return change


FOUND = {       # what is done to a copy of v1_grads, and the first row that must fail
    "pixels": (ACTIVATIONS, add("img/pixel_values", (0, 1, 2, 3), 2e-5), "img/pixel_values"),
    "picture": (ACTIVATIONS, add("img/raw", (slice(0, 9), 4, 1), 100), "img/pixel_values"),
    "id of the prompt": (ACTIVATIONS, add("in/input_ids", (0, 15), 1), "in/input_ids"),
    "bos": (ACTIVATIONS, add("text/in/input_ids", (0, 0), 1), "text/in/input_ids"),
    "type": (ACTIVATIONS, add("in/token_type_ids", (0, 3), -1), "in/token_type_ids"),
    "position": (ACTIVATIONS, add("batch/left/in/position_ids", (0, 20), 1), "batch/left/in/position_ids"),
    "mask": (ACTIVATIONS, add("batch/right/in/attention_mask", (0, 41), 1), "batch/right/in/attention_mask"),
    "text of a batch": (ACTIVATIONS, add("batch/left/in/input_ids", (0, 25), 1), "batch/left/logits"),
    "ViT": (ACTIVATIONS, add("vit/layer1/out", (0, 0, 0), 2e-3), "vit/layer1/out"),
    "first of three layers": (ACTIVATIONS, lambda t: [add(f"{name}", (0, 1, 1), 1e-2)(t) for name in
                                                      ("lm/layer1/out", "lm/logits", "lm/layer0/mlp_out")],
                              "lm/layer0/mlp_out"),
    "word": (ACTIVATIONS, add("gen/ids", (0, 5), 1), "gen/ids"),
    "logits of a step": (ACTIVATIONS, add("text/gen/logits", (0, 3, 9), 2e-3), "text/gen/logits"),
    "padding's garbage": (ACTIVATIONS, add("batch/right/logits", (0, 41, 0), np.nan), "batch/right/logits"),
    "gradient": (GRADS, add("grad/model.norm.weight", 3, 1e-3), "grad/model.norm.weight"),
    "gradient of zero": (GRADS, add("grad/model.layers.1.mlp.vision_mlp.up_proj.weight", (3, 3), 1e-12),
                         "grad/model.layers.1.mlp.vision_mlp.up_proj.weight"),
    "label": (GRADS, add("in/labels", (0, 36), 1), "in/labels"),
    "loss of a step": (GRADS, add("losses/adamw", 7, 1e-3), "losses/adamw"),
    "trained weight": (GRADS, add("after8/adamw/model.norm.weight", 0, 2e-3), "after8/adamw/model.norm.weight"),
    "weight": (WEIGHTS, add("model.layers.1.mlp.vision_mlp.down_proj.weight", (5, 7), 0.1), "lm/layer1/mlp_out"),
    "bias": (WEIGHTS, add("model.vision.transformer.layers.0.mlp.fc2.bias", 5, 0.1), "vit/layer0/mlp_out"),
    "rotary": (WEIGHTS, add("model.layers.0.self_attn.rotary_emb.inv_freq", 1, 0.01),
               "model.layers.1.self_attn.rotary_emb.inv_freq"),
    "NaN in a weight": (WEIGHTS, add("lm_head.weight", (0, 0), np.nan), "lm_head.weight"),
    "missing weight": (WEIGHTS, lambda t: t.pop("model.vision.boi"), "model.vision.boi"),
    "unknown weight": (WEIGHTS, lambda t: t.update(extra=np.ones(2, np.float32)), "extra"),
    "misshapen weight": (WEIGHTS, lambda t: t.update({"model.norm.weight": np.ones(31, np.float32)}),
                         "model.norm.weight"),
    "integer weight": (WEIGHTS, lambda t: t.update({"model.norm.weight": np.ones(32, np.int64)}), "model.norm.weight"),
    "missing tensor": (ACTIVATIONS, lambda t: t.pop("lm/layer1/k"), "lm/layer1/k"),
    "missing gradient": (GRADS, lambda t: t.pop("grad/lm_head.weight"), "grad/lm_head.weight"),
    "unknown tensor": (ACTIVATIONS, lambda t: t.update({"lm/layer7/out": np.ones((1, 34, 32), np.float32)}),
                       "lm/layer7/out"),
    "ids outside the vocabulary": (ACTIVATIONS, add("text/in/input_ids", (0, 7), 999), "text/in/input_ids"),
    "inputs of two lengths": (ACTIVATIONS, lambda t: t.update({"in/token_type_ids": t["in/token_type_ids"][:, 1:]}),
                              "in/token_type_ids"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FOUND)
def test_found_in_files(copy, what):
    folder = copy("v1_grads")
    file, change, first = FOUND[what]
    rewrite(folder / file, change)
    report = verify(folder)
    assert not report.ok and report.first_failure.name == first, report.table()
    assert first in report.table().splitlines()[-1 - len(report.first_failure.worst)]
    assert json.loads(json.dumps(report.to_dict()))["first_failure"] == first


def test_found_in_low_precision(copy):
    """A word that the reference's own logits do not put first fails, though 2-byte logits are compared loosely."""
    folder = copy("v1_bf16")
    rewrite(folder / ACTIVATIONS, add("gen/ids", (0, 2), 1))
    assert {"gen/ids"} <= {row.name for row in verify(folder).failed}


def test_worst_entries():
    case, computed = replayed("v1_grads")
    array = np.array(values(case.recorded[ACTIVATIONS]["lm/logits"]))
    for i in range(7):
        array[0, i, 2 * i] += i
    value = computed[ACTIVATIONS, "lm/logits"]
    row = compare_tensor(changed(case, ACTIVATIONS, "lm/logits", array), ACTIVATIONS, "lm/logits", value)
    assert [index for index, _, _ in row.worst] == [(0, i, 2 * i) for i in (6, 5, 4, 3, 2)]
    assert [reference - ours for _, ours, reference in row.worst] == pytest.approx([6, 5, 4, 3, 2], abs=1e-4)
    assert row.error == pytest.approx(6, abs=1e-4) and row.detail == f"6 of {array.size} entries differ"


def set_meta(folder, change):
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    change(meta)
    (folder / META).write_text(json.dumps(meta), encoding="utf-8")


@pytest.mark.parametrize("change, first", [
    (lambda meta: meta["prompts"][7]["input_ids"].append(5), "prompts/7"),
    (lambda meta: meta["prompts"][3].update(prompt="Where is a cat?"), "prompts/3"),
    (lambda meta: meta["gen"]["ids"][0].pop(), "gen/ids"),
    (lambda meta: meta.update(parameters=5), "parameters"),
    (lambda meta: meta["spec"].update(query="Who?"), "in/input_ids"),
    (lambda meta: meta["prompts"][0].pop("template"), "prompts/0"),
    (lambda meta: meta["fp32_vs_fp64"].update({"lm/layer0/more": {}}), "lm/layer0/more"),
])
def test_found_in_meta(copy, change, first):
    folder = copy("v1_grads")
    set_meta(folder, change)
    assert verify(folder).first_failure.name == first


@pytest.mark.parametrize("name", ["config.json", META, WEIGHTS, ACTIVATIONS, GRADS])
def test_damaged_files(copy, name):
    """One sentence that names the file, whether it is cut short, empty, not what it says, or missing."""
    folder = copy("v1_grads")
    content = (folder / name).read_bytes()
    for damaged in (content[:len(content) // 2], b"", b"[]" if name.endswith("json") else content + b"\0"):
        (folder / name).write_bytes(damaged)
        with pytest.raises(UserError, match=name):
            verify(folder)
    (folder / name).unlink()
    if name == GRADS:                                           # a case may have none, but meta.json speaks of them
        assert {row.detail for row in verify(folder).failed} == {"missing"}
    else:
        with pytest.raises(UserError, match="weights.safetensors" if name == WEIGHTS else name):
            verify(folder)


def test_no_case(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        verify(tmp_path / "nothing")
    with pytest.raises(UserError, match="config.json"):
        verify(tmp_path)


@pytest.mark.parametrize("key, value", [("spec", 3), ("prompts", {}), ("gen", 4), ("gen", {"ids": [[1], [1, 2]]}),
                                        ("prompts", [5]), ("lowp_vs_fp32math", [1])])
def test_malformed_meta(copy, key, value):
    folder = copy("v1_grads")
    set_meta(folder, lambda meta: meta.update({key: value}))
    with pytest.raises(UserError, match="meta.json"):
        verify(folder)


def test_subsets_of_a_case(copy):
    """Without text, batches and gradients a case still holds; its rows are those that are left."""
    folder = copy("v1_grads")
    (folder / GRADS).unlink()
    set_meta(folder, lambda meta: [meta.pop(key) for key in ("text_gen", "batch_gen", "grads", "prompts")] +
             [meta["spec"].pop("grads")])
    before = len(Checkpoint(folder / ACTIVATIONS))

    def change(tensors):
        for name in [name for name in tensors if name.startswith(("text/", "batch/"))]:
            del tensors[name]
    rewrite(folder / ACTIVATIONS, change)
    report = verify(folder)
    assert report.ok, report.table()
    assert sum(row.file == ACTIVATIONS for row in report.rows) == len(Checkpoint(folder / ACTIVATIONS)) < before


# Cases of other kinds, recorded from our own model (which the golden cases hold to the original)

class OtherLibrary(Rotary):
    """2-byte tables in which some cosines and sines are rounded to the other side, so many units in the last place."""
    units = 1

    def __call__(self, positions, dtype):
        random, result = np.random.default_rng(8), []
        for table in super().__call__(np.arange(300)[None], np.float32):
            moved = np.where(random.random(table.shape) < 0.3, toward_zero(table, self.tables, self.units), table)
            result.append(moved[0][positions].astype(dtype))
        return tuple(result)


def toward_zero(array, dtype, units):
    """float32 numbers that a 2-byte type holds, moved so many of its numbers toward zero."""
    if dtype == "bfloat16":
        return (array.view(np.uint32) - np.where(array == 0, 0, units << 16).astype(np.uint32)).view(np.float32)
    for _ in range(units):
        array = np.nextafter(array.astype(np.float16), np.float16(0)).astype(np.float32)
    return array


def record(folder, config, leaves, dtype=None, text_first=False, rotary=Rotary, **spec):
    """Write a case of `config`; dtype: weights and recorded tensors of 2 bytes; spec: fields of meta.json's."""
    folder.mkdir()
    config.write(folder)
    write_safetensors(folder / WEIGHTS, {name: array.astype(np.float32) for name, array in leaves.items()},
                      {"bfloat16": "BF16", "float16": "F16", None: None}[dtype])
    stored = {name: tensor.numpy().astype(np.float32) for name, tensor in Checkpoint(folder).items()}
    inv_freq, bytes_ = stored["model.layers.0.self_attn.rotary_emb.inv_freq"], ByteTokenizer(config)
    models = {tables: CogVLM(config, stored, rotary=(rotary if tables else Rotary)(inv_freq, tables))
              for tables in (None, dtype)}
    ends = spec.get("gen_eos", config.eos_token_id)
    for model in models.values():
        model.config = replace(config, eos_token_id=ends)
    raws = np.random.default_rng(5).integers(0, 256, (2, 31, 40, 3), np.uint8)
    pixels = [image.pixels(raw, config.vision.image_size)[None] for raw in raws]
    tensors = {"img/raw": raws[0], "img/pixel_values": pixels[0], "batch/img/raw1": raws[1],
               "batch/img/pixel_values1": pixels[1]}
    meta = {"spec": {"query": "Why?", "dtype": dtype or "float32", "mixed_batch": True, **spec}, "weights": WEIGHTS}
    tables = meta["lowp_vs_fp32math"], meta["lowp_vs_fp32math_lowp_rope"] = {}, {}
    why, count = (prompt.build(config, bytes_, prompt.text(spec.get("template", "chat"), query), [raw])
                  for query, raw in zip(("Why?", "Count."), raws))
    text = prompt.build(config, bytes_, "Hello! What is 2+2?")
    short = prompt.build(config, bytes_, "No image here")
    pad = config.pad_token_id
    runs = {"": why, "text/": text,
            "batch/left/": prompt.pad([why, count], pad), "batch/right/": prompt.pad([why, count], pad, "right"),
            "batch/mixed/": prompt.pad([short, count] if text_first else [why, short], pad)}
    for run, inputs in runs.items():
        keys = ("input_ids", "token_type_ids", "attention_mask", "position_ids")
        arrays = (inputs.ids, inputs.types, inputs.mask, position_ids(inputs.types, inputs.mask))
        tensors |= {f"{run}in/{key}": array for key, array in zip(keys, arrays)}
        rounded = replace(inputs, media=[(kind, round_to(array, dtype)) for kind, array in inputs.media])
        variants = {"": dtype, "fp32math/": None, "fp32math_lowp_rope/": dtype} if dtype else {"": None}
        for variant, tables_dtype in variants.items():
            with trace.recording() as records:
                models[tables_dtype].logits(rounded)
            records = {"logits": records["lm/logits"]} if run.startswith("batch") else records
            for name, array in records.items():
                if variant:
                    tensors[variant + run + name] = array
                    if run == "" and array.dtype != bool:
                        table = tables[variant != "fp32math/"]
                        table[name] = {"maxabs_diff": float(np.abs(tensors[name] - array).max()),
                                       "maxabs_val": float(np.abs(tensors[name]).max())}
                else:                                           # as if all arithmetic had been in 2 bytes
                    tensors[run + name] = array if array.dtype == bool else round_to(array, dtype)
        if run in ("", "text/", "batch/left/"):
            ids = np.stack(list(generate.generate(models[dtype], rounded, 8)), 1)
            for row in ids:                                     # the reference goes on with padding
                row[1 + np.argmax(row == ends) if ends in row else 8:] = pad
            cache = KVCache(config, len(ids), inputs.ids.shape[1] + 8)
            logits, position = [models[dtype].logits(rounded, cache, last=True)], arrays[3][:, -1:]
            for step in range(ids.shape[1] - 1):
                token = generate.next_token(ids[:, step])
                logits.append(models[dtype].logits(token, cache, positions=position + step + 1))
            tensors[f"{run}gen/ids"], tensors[f"{run}gen/logits"] = ids, round_to(np.concatenate(logits, 1), dtype)
            meta[{"": "gen", "text/": "text_gen"}.get(run, "batch_gen")] = {"ids": ids.tolist()}
    write_safetensors(folder / ACTIVATIONS, tensors)
    (folder / META).write_text(json.dumps(meta), encoding="utf-8")
    return tensors


V1 = dict(vocab_size=272, bos_token_id=1, eos_token_id=2, pad_token_id=0)
V2 = dict(vocab_size=272, bos_token_id=256, eos_token_id=257, pad_token_id=258)
KINDS = {
    "3 key-value heads, odd grid": ("cogvlm2", V2, None),
    "1 key-value head": ("cogvlm2", {**V2, "num_key_value_heads": 1, "vision": dict(image_size=28)}, None),
    "patch 16, pixels beyond the grid": ("cogvlm1", {**V1, "vision": dict(patch_size=16, image_size=56)}, None),
    "other epsilons": ("cogvlm1", {**V1, "rms_norm_eps": 1e-3, "vision": dict(layer_norm_eps=1e-2)}, None),
    "float16": ("cogvlm1", V1, "float16"),
    "bfloat16 v2": ("cogvlm2", V2, "bfloat16"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["", "early eos"])
def test_other_kinds_of_cases(tmp_path, kind, end, make_config, make_leaves):
    family, changes, dtype = KINDS[kind]
    config = make_config(family, **{**changes, "max_position_embeddings": 256})
    leaves = make_leaves(config, np.float32, seed=3)
    tensors = record(tmp_path / "first", config, leaves, dtype, text_first=bool(end))
    if end:                                 # call end of sequence what the first row says at its third step
        words = tensors["batch/left/gen/ids"]
        config = replace(config, eos_token_id=int(words[0, 2]))
        tensors = record(tmp_path / "early", config, leaves, dtype, text_first=True)
        assert tensors["gen/ids"].shape[1] <= 3 and tensors["gen/ids"][0, -1] == config.eos_token_id
    folder = tmp_path / ("early" if end else "first")
    report = verify(folder)
    assert report.ok, report.table()
    assert sum(row.file == ACTIVATIONS for row in report.rows) == len(tensors)
    if end:                                 # after the end of a row come padding or eos and nothing else
        ids = tensors["batch/left/gen/ids"].copy()
        if ids.shape[1] > 3:
            ids[0, -1] = config.eos_token_id
            rewrite(folder / ACTIVATIONS, lambda tensors: tensors.update({"batch/left/gen/ids": ids}))
            set_meta(folder, lambda meta: meta["batch_gen"].update(ids=ids.tolist()))
            assert verify(folder).ok
            ids[0, -1] = 7
            rewrite(folder / ACTIVATIONS, lambda tensors: tensors.update({"batch/left/gen/ids": ids}))
            assert verify(folder).first_failure.name == "batch/left/gen/ids"


@pytest.mark.parametrize("template, text", [("base", "Why?"), ("vqa", "Question: Why? Short answer:"),
                                            ("chat", "Question: Why? Answer:")])
def test_the_template_of_a_case(tmp_path, make_config, make_leaves, template, text):
    """spec.template overrides config.json's, whichever that is."""
    for own in ("chat", "vqa"):
        config = make_config("cogvlm1", **V1, max_position_embeddings=256, template_version=own)
        folder = tmp_path / own
        tensors = record(folder, config, make_leaves(config, np.float32), template=template)
        assert tensors["in/input_ids"].shape[1] == 1 + config.num_image_tokens + len(text)
        assert verify(folder).ok
        set_meta(folder, lambda meta: meta["spec"].pop("template"))
        assert (verify(folder).first_failure is None) == (template == own)
    set_meta(folder, lambda meta: meta["spec"].update(template="chatty"))
    assert "no template 'chatty'" in verify(folder).first_failure.detail


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_the_token_that_ends_a_case_s_answers(tmp_path, make_config, make_leaves, dtype):
    """spec.gen_eos ends greedy decoding in config.json's place, in batches too: a row that has ended holds padding."""
    config = make_config("cogvlm2", **V2, max_position_embeddings=256)
    leaves = make_leaves(config, np.float32, seed=3)
    words = record(tmp_path / "first", config, leaves, dtype)["batch/left/gen/ids"]
    end = int(words[0, 2])
    folder = tmp_path / "ended"
    tensors = record(folder, config, leaves, dtype, gen_eos=end)
    ids = tensors["batch/left/gen/ids"]
    stop = 1 + ids[0].tolist().index(end)
    assert stop <= 3 and ids.shape[1] > stop and (ids[0, stop:] == config.pad_token_id).all()
    report = verify(folder)
    assert report.ok, report.table()
    set_meta(folder, lambda meta: meta["spec"].update(gen_eos=[end, 271]))
    assert verify(folder).ok or 271 in ids
    set_meta(folder, lambda meta: meta["spec"].pop("gen_eos"))
    assert {"batch/left/gen/ids"} <= {row.name for row in verify(folder).failed}


@pytest.mark.parametrize("value", [None, "2", 2.0, True, -1, 272, [], [2, "3"]])
def test_a_malformed_end_of_answers(copy, value):
    folder = copy("v1_grads")
    set_meta(folder, lambda meta: meta["spec"].update(gen_eos=value))
    with pytest.raises(UserError, match="meta.json: spec.gen_eos is .* not a token of the vocabulary"):
        verify(folder)


@pytest.mark.parametrize("family, sizes", [("cogvlm1", V1), ("cogvlm2", V2)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_another_library_s_cosines(tmp_path, make_config, make_leaves, family, sizes, dtype):
    """A 2-byte rotary table one unit in the last place off holds, and so do the logits that it moves by more than
    float32 arithmetic does; two units off it does not hold."""
    config = make_config(family, **sizes, max_position_embeddings=256)
    leaves = make_leaves(config, np.float32, seed=3)
    ours = record(tmp_path / "ours", config, leaves, dtype)
    theirs = record(tmp_path / "theirs", config, leaves, dtype, rotary=OtherLibrary)
    name = "fp32math_lowp_rope/lm/logits"
    assert np.abs(theirs["lm/rope_cos"] - ours["lm/rope_cos"]).max() > 0
    assert np.abs(theirs[name] - ours[name]).max() > 4e-5 * max(1, np.abs(ours[name]).max())
    report = verify(tmp_path / "theirs")
    assert report.ok, report.table()
    assert max(row.error for row in report.rows if row.name == "lm/rope_cos") > 0          # said, not hidden

    class Worse(OtherLibrary):
        units = 3
    record(tmp_path / "worse", config, leaves, dtype, rotary=Worse)
    assert verify(tmp_path / "worse").first_failure.name in ("lm/rope_cos", "fp32math_lowp_rope/lm/rope_cos")


def test_a_logit_that_is_wrong_beside_another_library_s_cosines(tmp_path, make_config, make_leaves):
    """The cosines are allowed for; nothing else is."""
    config = make_config("cogvlm1", **V1, max_position_embeddings=256)
    folder = tmp_path / "case"
    logits = record(folder, config, make_leaves(config, np.float32, seed=3), "float16", rotary=OtherLibrary)[
        "fp32math_lowp_rope/lm/logits"]
    rewrite(folder / ACTIVATIONS, add("fp32math_lowp_rope/lm/logits", (0, -1, 7), 6e-5 * max(1, np.abs(logits).max())))
    assert [row.name for row in verify(folder).failed] == ["fp32math_lowp_rope/lm/logits"]
