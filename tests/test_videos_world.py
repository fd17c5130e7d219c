"""Drawn videos: the same seed gives the same, what is said of them is true, and a model can be trained and asked."""
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import tinycogvlm
from tinycogvlm.cli import main
from tinycogvlm.errors import UserError
from tinycogvlm.evaluate import videos as evaluation
from tinycogvlm.inputs import grounding, prompt, video
from tinycogvlm.inputs.tokenizer import ByteTokenizer
from tinycogvlm.storage import lora
from tinycogvlm.train.lora import videos as training
from tinycogvlm.world import truth
from tinycogvlm.world.scenes import Dice
from tinycogvlm.world.videos import BEFORE, CROSSED, FRAMES, KINDS_OF_QUESTION, PACES, UNSEEN_PACE, clip, conversation

SIDE = 56
CLIPS = [clip("train", number, (1, 3), SIDE) for number in range(60)]


def test_a_seed_is_a_video():
    one, again, other = clip("test", 7), clip("test", 7), clip("test", 8)
    assert one == again and one != other
    assert all(np.array_equal(a, b) for a, b in zip(one.pictures, again.pictures, strict=True))
    assert len({picture.tobytes() for picture in one.pictures}) == FRAMES       # no two frames are the same
    rows = clip("test", 7, times=False)
    assert rows.places == one.places and rows.seconds == one.seconds
    assert all(np.array_equal(a, b) for a, b in zip(one.pictures, rows.pictures, strict=True))


def test_seconds_are_those_of_training_and_others_can_be_had():
    for c in CLIPS:
        assert c.seconds[1] - c.seconds[0] in PACES and 0 <= c.seconds[0] < BEFORE
        assert set(np.diff(c.seconds)) == {c.seconds[1] - c.seconds[0]} and len(c.seconds) == FRAMES
    assert {c.seconds[1] - c.seconds[0] for c in CLIPS} == set(PACES) and UNSEEN_PACE not in PACES
    assert clip("train", 0, pace=UNSEEN_PACE, start=0).seconds == tuple(range(0, 24, 3))
    assert clip("train", 0, pace=UNSEEN_PACE).places == clip("train", 0).places


def test_frames_show_what_is_there_and_nothing_else():
    """By the painter's own record of which thing each pixel shows"""
    for c in CLIPS[:12]:
        for i, frame in enumerate(c.frames):
            there = [(thing.name, places[i]) for thing, places in zip(c.scene.things, c.places) if places[i]]
            assert sorted(there) == sorted((thing.name, thing.box) for thing in frame.things)
            assert set(np.unique(frame.owner)) - {-1} == set(range(len(frame.things)))
            for n, thing in enumerate(frame.things):
                rows, columns = np.nonzero(frame.owner == n)
                x0, y0, x1, y1 = thing.box
                assert x0 <= columns.min() and columns.max() < x1 and y0 <= rows.min() and rows.max() < y1
                assert 0 <= x0 < x1 <= SIDE and 0 <= y0 < y1 <= SIDE


def test_things_come_leave_come_back_and_move_without_hiding_each_other():
    often, moving = set(), 0
    for c in CLIPS:
        for thing, places in zip(c.scene.things, c.places):
            visits = c.visits(thing)
            often.add(len(visits))
            assert [i for first, last in visits for i in range(first, last + 1)] == c.seen(thing) != []
            assert all(after[0] - before[1] > 1 for before, after in zip(visits, visits[1:]))
            moving += len(set(filter(None, places))) > 1
        for frame in c.frames:
            assert all(grounding.iou(a.box, b.box) <= CROSSED for a in frame.things for b in frame.things if a is not b)
    assert often == {1, 2, 3} and moving > 20
    ends = {(c.seen(thing)[0], c.seen(thing)[-1]) for c in CLIPS for thing in c.scene.things}
    assert {first for first, _ in ends} >= {0, 1, 2, 3, 4} and {last for _, last in ends} >= {3, 4, 5, 6, 7}


def told(c, question):
    """The answer, from the frames alone: which names are where when"""
    names = [[thing.name for thing in frame.things] for frame in c.frames]
    if found := re.match("When does the (.*) first appear|When do you last see the (.*)[?]", question):
        name = found[1] or found[2]
        when = [second for second, here in zip(c.seconds, names) if name in here]
        return f"{when[0] if found[1] else when[-1]}."
    if found := re.match("How often does the (.*) appear", question):
        there = "".join("x" if found[1] in here else " " for here in names)
        return f"{len(there.split())}."
    if found := re.match("Which appears first, the (.*) or the (.*)[?]", question):
        return next(f"The {name}." for here in names for name in found.groups() if name in here)
    if question.startswith("In what order"):
        return list(dict.fromkeys(name for here in names for name in here))
    second = int(re.search("at second ([0-9]+)", question)[1])
    frame = c.frames[c.seconds.index(second)]
    if question.startswith("What"):
        return [thing.name for thing in frame.things]
    name = re.match("Where is the (.*) at second", question)[1]
    boxes = [truth.rounded(frame, thing) for thing in frame.things if thing.name == name]
    return grounding.box_text(boxes) if boxes else f"There is no {name}."


def test_every_answer_is_true():
    asked = set()
    for number, c in enumerate(CLIPS):
        for kind, ask in KINDS_OF_QUESTION.items():
            turn = ask(c, Dice(kind, number))
            if turn:
                asked.add(kind)
                expected = told(c, turn[0])
                if isinstance(expected, list):
                    said = [re.sub("^an? ", "", part) for part in re.split(", | and ", turn[1].lower().rstrip("."))]
                    assert said == (expected or ["nothing"]), turn[0]
                else:
                    assert turn[1] == expected, turn[0]
    assert asked == set(KINDS_OF_QUESTION)


def test_a_conversation_asks_nothing_twice():
    boxes = [answer for number in range(40) for _, answer in conversation(CLIPS[1], Dice("b", number), 8, ("where at",))
             if "[[" in answer]
    assert len(boxes) > len(set(boxes)) > 1                 # the same in other conversations
    for number in range(40):
        said = [answer for _, answer in conversation(CLIPS[1], Dice("b", number), 8, ("where at",)) if "[[" in answer]
        assert len(said) == len(set(said))
    turns = conversation(CLIPS[1], Dice("a", 1), 8)
    assert len(turns) == len(dict(turns)) == 8 and conversation(CLIPS[1], Dice("a", 1), 8) == turns
    assert all(question.startswith("How often") for question, _ in conversation(CLIPS[1], Dice("a", 1), 2, ("how often",)))


# ------------------------------------------------------------------------------------------------------------- inputs

@pytest.fixture
def config(make_config):
    return make_config("cogvlm1", vocab_size=259, max_position_embeddings=512, vision=dict(patch_size=28, image_size=56))


def test_seconds_are_written_after_their_frames(config):
    c, tokenizer = clip("train", 3, side=56, pace=4, start=8), ByteTokenizer(config)
    inputs = prompt.build(config, tokenizer, "When?", [c.picture])
    letters = ["#" if kind else tokenizer.decode([token]) for token, kind in zip(inputs.ids[0], inputs.types[0])]
    texts = re.split("#+", "".join(letters))
    assert texts[1:] == [str(second) for second in c.seconds[:-1]] + [f"{c.seconds[-1]}When?"]
    assert inputs.types.max() == FRAMES and len(inputs.media) == FRAMES
    without = prompt.build(config, tokenizer, "When?", [clip("train", 3, side=56, times=False).picture])
    assert (without.types == 0).sum() == 1 + len("When?") and without.types.max() == FRAMES
    with pytest.raises(UserError, match="a video of 8 frames with 7 seconds; each frame has one"):
        video.Video(c.pictures, "spread", c.seconds[1:])
    numbered = prompt.build(config, tokenizer, "", [video.Video(c.pictures)])
    assert tokenizer.decode(numbered.ids[numbered.types == 0][1:]) == "01234567"


def test_spread_takes_what_is_there_with_its_seconds(tmp_path):
    times = np.arange(30) / 2
    assert video.chosen(times, 2.0, "spread", 4) == [0, 9, 19, 29]
    assert video.chosen(times[:3], 2.0, "spread", 8) == [0, 1, 2]               # no frame comes twice
    frames = [Image.new("RGB", (8, 8), (9 * i, 0, 0)) for i in range(6)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=3000)
    read = video.read(tmp_path / "a.gif", "spread", most=3)
    assert read.seconds == (0, 6, 15) and len(read.frames) == 3
    assert video.read(tmp_path / "a.gif").seconds is None
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(frames):
        frame.save(tmp_path / "frames" / f"{i}.png")
    assert video.read(tmp_path / "frames", "spread", fps=0.5, most=2).seconds == (0, 10)


# ----------------------------------------------------------------------------------------------------------- commands

def test_scene_writes_a_video_that_reads_back(tmp_path, capsys):
    out = tmp_path / "a.gif"
    options = ["scene", "--video", "--seed", "5", "--pace", "3", "--size", "56"]
    assert main.main([*options, "--out", str(out), "--json"]) == 0
    told, c = json.loads(capsys.readouterr().out), clip("test", 5, side=56, pace=3, start=0)
    assert [frame["second"] for frame in told["frames"]] == list(c.seconds) == list(range(0, 24, 3))
    assert [[thing["pixels"] for thing in frame["things"]] for frame in told["frames"]] == [
        [list(thing.box) for thing in frame.things] for frame in c.frames]
    read = video.read(out, "spread", most=FRAMES)
    assert read.seconds == c.seconds
    for frame, picture in zip(read.frames, c.pictures, strict=True):            # up to the palette's 256 colours
        assert np.abs(np.asarray(frame).astype(int) - picture).mean() < 6
    assert main.main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{c.scene.background}, 8 frames of 56 x 56 pixels"
    assert len(lines) == 1 + sum(len(c.visits(thing)) for thing in c.scene.things)


@pytest.mark.parametrize("options, said", [
    (["scene", "--pace", "2"], "--pace goes with --video"),
    (["scene", "--video", "--out", "a.jpg"], "a.jpg: a video is written as .gif, .png or .webp"),
    (["eval", "--image-size", "56"], "--image-size goes with --video"),
    (["eval", "--no-times"], "--no-times goes with --video"),
    (["eval", "--video", "--no-baselines"], "--no-baselines is of pictures"),
    (["eval", "--video", "--split", "sizes"], "--split sizes is of pictures"),
    (["eval", "--video", "--gallery", "a.png"], "--gallery is of pictures")])
def test_what_does_not_go_together(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(options) != 0
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_measuring(config, monkeypatch):
    """A model that knows everything is right everywhere; one that says 3 is right where that is the truth."""
    model = SimpleNamespace(config=config)
    monkeypatch.setattr(evaluation, "ask", lambda model, asked: [question.truth for question in asked])
    found = evaluation.measure(model, "check", 3)
    assert list(found) == ["trained paces", "unseen pace"]
    for column, paces in evaluation.COLUMNS.items():
        assert list(found[column]) == list(KINDS_OF_QUESTION)
        assert all(row["share"] == 1 and row["n"] == 3 for row in found[column].values())
        asked = evaluation.questions(config, "check", 3, True, paces)
        assert {q.scene.seconds[1] - q.scene.seconds[0] for q in asked} <= set(paces)
        assert all(len({q.scene for q in asked if q.kind == kind}) == 3 for kind in KINDS_OF_QUESTION)
    monkeypatch.setattr(evaluation, "ask", lambda model, asked: ["3."] * len(asked))
    assert evaluation.measure(model, "check", 3)["unseen pace"]["order"]["share"] == 0
    guessed = evaluation.table([(question, "") for question in evaluation.questions(config, "check", 40, True, (1, 2))])
    assert guessed["where at"]["majority"] > 0.3 < guessed["earlier"]["majority"]       # there is no such thing; the first
    assert guessed["order"]["majority"] < 0.2
    lines = evaluation.text({"a": found}).splitlines()
    assert len(lines) == 2 + len(KINDS_OF_QUESTION) and "100.0 (43.9 - 100.0)" in lines[2] and "unseen pace, a" in lines[0]


def test_training_learns_an_adapter_and_refuses_to_resume_another(tmp_path, monkeypatch, capsys):
    """Two steps: what was read is what is merged, and a run with time words does not go on without them."""
    monkeypatch.setattr(training, "BATCH", 2)
    monkeypatch.setattr(training, "TURNS", 2)
    monkeypatch.setattr(evaluation, "ask", lambda model, asked: [question.truth for question in asked])
    monkeypatch.setattr(evaluation, "KINDS_OF_QUESTION", {"order": KINDS_OF_QUESTION["order"]})
    options = ["train", "video", "--out", str(tmp_path), "--samples", "4", "--image-size", "28", "--workers", "1"]
    monkeypatch.setattr("tinycogvlm.train.lora.fine_tune.fit", ahead_less)
    assert main.main(options) == 0
    assert "video: 4 samples learned" in capsys.readouterr().err
    adapter = lora.read(tmp_path)
    assert any(array.any() for name, array in adapter.leaves.items() if name.endswith(lora.B))
    assert main.main([*options, "--resume", "--no-times"]) == 1
    assert "times is False, but was True" in capsys.readouterr().err
    assert main.main(options) == 1 and "already holds a run of the stage video" in capsys.readouterr().err


def ahead_less(*given, **options):
    """loop.fit without a process that prepares the data"""
    from tinycogvlm.train.loop.loop import fit
    return fit(*given, **options, ahead=0)


def test_what_is_learned_are_answers_after_frames_and_times():
    base = tinycogvlm.load(image_size=28)
    made = [training.Clips(base.config, str(tinycogvlm.loading.default_weights()), times).example(4)
            for times in (True, False)]
    (inputs, labels), (without, labels_without) = made
    assert inputs.types.max() == without.types.max() == FRAMES
    c = clip("train", 4, side=28)
    turns = conversation(c, Dice("video questions", 4), training.TURNS)
    learned = base.tokenizer.decode(labels[0][(labels[0] >= 0) & (labels[0] != base.config.eos_token_id)])
    assert learned == "".join(f" {answer}" for _, answer in turns)
    digits = sum(len(str(second)) for second in c.seconds)
    assert inputs.ids.shape[1] - without.ids.shape[1] == digits
    assert np.array_equal(labels[0][-80:], labels_without[0][-80:])
