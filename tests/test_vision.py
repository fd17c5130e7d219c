"""The tower's contrast with words: what every patch is to say, and the loss with its gradient."""
from dataclasses import replace

import numpy as np
import pytest

from tinycogvlm.model.parts import TOWER
from tinycogvlm.nn.tree import matches
from tinycogvlm.train.recipe import contrast
from tinycogvlm.train.recipe.initial import CONFIG, initial
from tinycogvlm.train.recipe.contrast import TEXTS, THINGS, WORDS
from tinycogvlm.world.grounds import GROUNDS
from tinycogvlm.world.scenes import SIDE, scene
from tinycogvlm.world.draw import paint
from tinycogvlm.world.sketches import NAMES, UNKNOWN, Look, sketch
from tinycogvlm.world.writing import CHARACTERS, written


@pytest.fixture(scope="module")
def small():
    vision = replace(CONFIG.vision, hidden_size=16, num_hidden_layers=1, num_heads=2, intermediate_size=16)
    return replace(CONFIG, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                   num_key_value_heads=2, vision=vision)


def test_targets_follow_what_is_seen():
    scenes = [scene("train", number, (1, 6)) if number % 2 else sketch("train", number, (1, 6)) for number in range(20)]
    pixels, targets, boxes, things = contrast.examples(scenes, 14)
    assert pixels.shape == (20, 3, SIDE, SIDE) and targets.shape == (20, 64) and boxes.shape == (20, 64, 4)
    assert {array.dtype for array in (pixels, boxes, things, contrast.SPELLED)} == {np.dtype(np.float32)}
    kinds = set()
    for s, target, places, words in zip(scenes, targets, boxes, things):
        for i in range(64):
            y, x = 14 * (i // 8), 14 * (i % 8)
            patch = s.owner[y:y + 14, x:x + 14]
            shares = [(patch == number).mean() for number in range(len(s.things))]
            if max(shares) > 0.35:
                thing = s.things[shares.index(max(shares))]
                assert TEXTS[target[i]] == thing.name and np.allclose(places[i], np.array(thing.box) / 11.2)
                kinds.add("thing")
            elif sum(shares) > 0.05:
                assert target[i] == -100
                kinds.add("nothing to learn")
            else:
                assert TEXTS[target[i]] == s.background
                kinds.add("background")
        said = " ".join(thing.name for thing in s.things).split()
        assert {word: count for word, count in zip(WORDS, words) if count} == {word: said.count(word) for word in said}
    assert len(kinds) == 3


def test_a_text_is_the_sum_of_its_words():
    words = np.random.default_rng(0).standard_normal((len(WORDS), 5))
    names = dict(zip(TEXTS, contrast.SPELLED @ words))
    assert set(names) == {*NAMES, UNKNOWN, *CHARACTERS, *GROUNDS} and THINGS + GROUNDS == TEXTS
    assert np.allclose(names["red star"], words[WORDS.index("red")] + words[WORDS.index("star")])
    assert np.allclose(names["dog"], words[WORDS.index("dog")])


def test_a_step_s_data_are_all_its_scenes_once(small):
    parts = contrast.data(CONFIG.vision, contrast.COURSE, 240, 12, 3, step=5)       # pictures 60 to 71, at a quarter of the run and later
    scenes = [contrast.picture(60 + i, (60 + i) / 240) for i in range(12)]
    assert [len(part[0]) for part in parts] == [4, 4, 4]
    whole = contrast.examples(scenes, 14)
    order = [i for start in range(3) for i in range(start, 12, 3)]
    for array, *arrays in zip(whole, *parts):
        assert np.array_equal(np.concatenate(arrays), array[order])


def test_the_tower_starts_with_few_hands_and_ends_with_all():
    """And no picture comes twice: the numbers of a run are those of its scenes."""
    early, late = ([contrast.picture(number, share) for number in range(first, first + 120)]
                   for first, share in ((0, 0.05), (500, 0.9)))
    hands = [{thing.look.hand for s in some if not written(s) for thing in s.things if isinstance(thing.look, Look)}
             for some in (early, late)]
    assert len(hands[0]) == 3 and len(hands[1]) > 15        # two hands and shapes; then colour and ink
    assert [sum(map(written, some)) for some in (early, late)] == [0, 8]      # one in ten of them is plain
    assert [sum(s.paint is paint for s in some) for some in (early, late)] == [12, 12]      # plain scenes
    assert max(len(s.things) for s in early) == 8 and {len(s.things) for s in early} >= {1, 2, 3}


def test_the_loss_is_its_four_parts(small):
    """Against the definitions, written as loops in float64."""
    leaves = initial(small) | contrast.heads(small, np.random.default_rng(1))
    leaves = {name: array.astype(float) for name, array in leaves.items()}
    leaves["words.weight"] *= 20
    part = contrast.examples([scene("train", number, (1, 4)) for number in range(3)], 14)
    loss, count, _, extras = contrast.loss(leaves, small, part)
    pixels, targets, boxes, things = part
    x = contrast.vit(pixels.astype(float), contrast.Params(leaves).model.vision, small.vision)[0]
    names = contrast.SPELLED.astype(float) @ leaves["words.weight"]
    entropy = lambda row, right: np.log(np.exp(row).sum()) - row[right]
    named, empty, places, right = [], [], [], []
    for n in range(3):
        for i in range(64):
            row = x[n, i] @ names.T
            if targets[n, i] >= len(THINGS):
                empty.append(entropy(row, targets[n, i]))
            elif targets[n, i] >= 0:
                named.append(entropy(row, targets[n, i]))
                right.append(row.argmax() == targets[n, i])
                for error in leaves["box.weight"] @ x[n, i] - boxes[n, i]:
                    places.append(5 * error ** 2 if abs(error) < 0.1 else abs(error) - 0.05)
    pictures, texts = x.mean(1) @ leaves["picture.weight"].T, things @ leaves["words.weight"]
    alike = [entropy(a[n], n) for n in range(3) for a in (pictures @ texts.T, texts @ pictures.T)]
    expected = np.mean(named) + 0.2 * np.mean(empty) + 2 * np.mean(places) + 0.1 * np.mean(alike)
    assert abs(loss - expected) < 1e-6 * expected and count == 3 and extras["patches"] == np.mean(right)


def test_pictures_may_have_no_patch_of_a_thing_or_of_the_background(small):
    """Each part of the loss, and of its gradient, is then 0: what the others give adds up to the whole."""
    leaves = initial(small) | contrast.heads(small, np.random.default_rng(1))
    leaves = {name: array.astype(float) for name, array in leaves.items()}
    pixels, targets, boxes, things = contrast.examples([scene("train", number, (1, 4)) for number in range(2)], 14)
    of_things, ground = (targets >= 0) & (targets < len(THINGS)), targets >= len(THINGS)

    def loss(shown):
        part = pixels.astype(float), np.where(shown, targets, -100), boxes, things
        value, _, pull, extras = contrast.loss(leaves, small, part)
        return value, pull(), extras["patches"]
    (whole, gradients, right), *alone, (alike, rest, none) = map(loss, (of_things | ground, of_things, ground, False))
    assert abs(sum(value for value, _, _ in alone) - alike - whole) < 1e-9 and 0 < alike < whole
    for name, g in gradients.items():
        assert np.allclose(sum(one[name] for _, one, _ in alone) - rest[name], g, rtol=1e-6, atol=1e-9), name
    assert not alone[1][1]["box.weight"].any() and gradients["box.weight"].any()
    assert [shares for _, _, shares in alone] == [right, 0] and none == 0


def test_the_gradient_of_every_tensor(small):
    """Against finite differences in float64, along a random direction; only the tower and its heads have one."""
    random = np.random.default_rng(0)
    leaves = {name: array.astype(float) for name, array in (initial(small) | contrast.heads(small, random)).items()}
    part = contrast.examples([scene("train", number, (1, 4)) for number in range(3)], 14)
    part = (part[0].astype(float), *part[1:])
    gradients = contrast.loss(leaves, small, part)[2]()
    heads = {"words.weight", "box.weight", "picture.weight"}
    assert set(gradients) == heads | {name for name in leaves if matches(name, TOWER)}
    for group in (TOWER, ("words.*",), ("box.*",), ("picture.*",)):
        direction = {name: random.standard_normal(g.shape) for name, g in gradients.items() if matches(name, group)}
        moved = [contrast.loss(leaves | {name: leaves[name] + h * d for name, d in direction.items()}, small, part)[0]
                 for h in (1e-6, -1e-6)]
        slope = sum((gradients[name] * d).sum() for name, d in direction.items())
        assert abs((moved[0] - moved[1]) / 2e-6 - slope) < 1e-5 * abs(slope)


def test_what_the_tower_says_is_read(small, monkeypatch):
    """Nine patches say a thing and its box, all others the background and no box; then a name and two boxes are wrong."""
    scenes = [sketch("train", number, (1, 1)) for number in range(4)]
    said = lambda text: 9 * (2 * contrast.SPELLED[TEXTS.index(text)] - 1)
    x = np.zeros((4, 64, len(WORDS) + 4), np.float32)       # of every patch: its words, its box
    for patches, s in zip(x, scenes):
        patches[:, :-4] = said(s.background)
        patches[:9] = [*said(s.things[0].name), *np.array(s.things[0].box) * (10 / s.side)]
    monkeypatch.setattr(contrast, "vit", lambda *_, **__: (x, None))
    words, box = np.split(np.eye(len(WORDS) + 4, dtype=np.float32), [len(WORDS)])
    leaves = initial(small) | {"words.weight": words, "box.weight": box}
    assert contrast.read(leaves, small, scenes) == (1, 1)
    x[1, :9, :-4] = said(next(name for name in NAMES if name != scenes[1].things[0].name))
    x[2:, :9, -4:] += 9
    assert contrast.read(leaves, small, scenes) == (0.75, 0.5)
