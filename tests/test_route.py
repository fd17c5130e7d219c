"""Which expert computes a token, which position it has: the original's sequences, and the rule for several images."""
import json
from pathlib import Path

import numpy as np
import pytest

from tinycogvlm.model.route import Route, position_ids, vision_expert_mask

GOLDEN = json.loads((Path(__file__).parent / "golden/auxiliary/masks_positions.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: "/".join("".join(map(str, row)) for row in
                                                                         golden["token_type_ids"]))
def test_the_original_s_sequences(golden):
    types, mask = np.array(golden["token_type_ids"]), golden["attention_mask"]
    mask = None if mask is None else np.array(mask)
    route = Route(types, mask)
    assert route.vision_mask.astype(int).tolist() == golden["vision_mask"]
    assert (~route.vision_mask).astype(int).tolist() == golden["language_mask"]
    assert route.positions.tolist() == position_ids(types, mask).tolist() == golden["position_ids"]


def row(text):
    return np.array([[int(token) for token in text]])


@pytest.mark.parametrize("types, vision, positions", [
    #  bos, picture, text: the drawing in route.py
    ("01111100", "01111000", [0, 1, 2, 2, 2, 3, 4, 5]),
    # two pictures with text between: the rule for each by itself
    ("0111100222200", "0111000222000".replace("2", "1"), [0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10]),
    # two adjacent pictures: the first one's eoi goes to language, the second one's boi takes a position of its own
    ("011112222200", "011101111000", [0, 1, 2, 2, 3, 4, 5, 5, 5, 6, 7, 8]),
    # three of them, nothing else
    ("111222333", "110110110", [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    # of one patch each
    ("0112200", "0101000", [0, 1, 2, 3, 4, 5, 6]),
    # the numbers need not rise
    ("03333111", "01110110", [0, 1, 2, 2, 3, 4, 5, 6]),
    # text alone
    ("0000", "0000", [0, 1, 2, 3]),
])
def test_several_pictures(types, vision, positions):
    assert vision_expert_mask(row(types)).astype(int).tolist() == row(vision).tolist()
    assert position_ids(row(types)).tolist() == [positions]


def random_types(random, T):
    """A row of text runs and pictures of 3 tokens and more, pictures numbered in their order."""
    types, picture = [], 0
    while len(types) < T:
        if random.random() < 0.5:
            picture += 1
            types += [picture] * int(random.integers(3, 7))
        else:
            types += [0] * int(random.integers(1, 5))
    return types[:T]


@pytest.mark.parametrize("seed", range(50))
def test_every_token_has_exactly_one_expert_and_one_source(seed):
    random = np.random.default_rng(seed)
    types = np.array([random_types(random, 17) for _ in range(3)])
    route = Route(types)
    experts = {name: np.zeros(types.size, int) for name in ("language", "vision")}
    for name, tokens in route.experts:
        experts[name][tokens] += 1
    assert (experts["language"] + experts["vision"] == 1).all()
    assert np.array_equal(experts["vision"].reshape(types.shape) == 1, route.vision_mask)
    assert [name for name, _ in route.experts] == [name for name in ("language", "vision") if experts[name].any()]
    sources = np.zeros(types.size, int)
    sources[route.text_tokens] += 1
    if route.media_tokens is not None:
        sources[route.media_tokens] += 10
    assert sources.reshape(types.shape).tolist() == np.where(types > 0, 10, 1).tolist()


@pytest.mark.parametrize("seed", range(50))
def test_positions_of_random_rows(seed):
    """Written out: boi, the patches, eoi and every text token take one step each; patches of an image share theirs."""
    types = random_types(np.random.default_rng(seed), 23)
    expected, position = [], -1
    for i, kind in enumerate(types):
        first = i == 0 or types[i - 1] != kind
        last = i == len(types) - 1 or types[i + 1] != kind
        second = not first and (i == 1 or types[i - 2] != kind)
        patch_after_patch = kind and not first and not last and not second
        position += not patch_after_patch
        expected.append(position)
    assert position_ids(np.array([types])).tolist() == [expected]


@pytest.mark.parametrize("types", ["0111100", "0000", "011122200"])
def test_padding_shifts_positions_by_one_and_changes_no_expert(types):
    alone, padded = Route(row(types)), Route(row("000" + types), row("000" + "1" * len(types)))
    assert padded.positions[0, :3].tolist() == [0, 0, 0]
    assert (padded.positions[0, 3:] == alone.positions[0] + 1).all()
    assert np.array_equal(padded.vision_mask[:, 3:], alone.vision_mask) and not padded.vision_mask[:, :3].any()
    assert padded.mask.tolist() == [[False] * 3 + [True] * len(types)] and alone.mask is None
    right = Route(row(types + "00"), row("1" * len(types) + "00"))
    assert right.positions[0].tolist() == alone.positions[0].tolist() + [alone.positions[0, -1]] * 2
    assert np.array_equal(right.vision_mask[:, :-2], alone.vision_mask)


def test_neighbouring_tokens_are_a_slice_and_a_decoded_token_is_the_language_expert_s():
    """Slices spare the copies; a token that is decoded takes the short way."""
    route = Route(row("0111100"))
    assert dict(route.experts)["vision"] == slice(1, 4) and route.media_tokens == slice(1, 5)
    decoded = Route(np.zeros((2, 1), int), np.ones((2, 1), int), positions=np.array([[7], [9]]))
    assert decoded.experts == [("language", slice(0, 2))]
    assert decoded.positions.tolist() == [[7], [9]] and decoded.mask is None and decoded.media_tokens is None


def test_inputs_are_not_changed():
    types, mask = row("0011110"), row("0111111")
    types.setflags(write=False), mask.setflags(write=False)
    Route(types, mask)
