"""Choosing tokens, stopping, streaming, batches: against computations by hand and scripted logits."""
import itertools
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.model.generate import Answer, Sampling, answers, generate, next_token, stream
from tinycogvlm.inputs.prompt import Inputs, images, pad
from tinycogvlm.model.route import position_ids
from tinycogvlm.inputs.tokenizer import ByteTokenizer

RANDOM = np.random.default_rng
DRAWS = 5000


def choose(logits, seen=(), seed=0, **sampling):
    return Sampling(**sampling).choose(np.array(logits, np.float32), list(seen), RANDOM(seed))


def frequencies(logits, seen=(), **sampling):
    """Of each token among many draws."""
    random, sampling, logits = RANDOM(1), Sampling(**sampling), np.array(logits, np.float32)
    counts = np.bincount([sampling.choose(logits, list(seen), random) for _ in range(DRAWS)], minlength=len(logits))
    return counts / DRAWS


def agree(measured, probabilities):
    """Within five standard deviations; what has probability 0 never comes, what has 1 always."""
    probabilities = np.array(probabilities)
    allowed = 5 * np.sqrt(probabilities * (1 - probabilities) / DRAWS)
    assert (np.abs(measured - probabilities) <= allowed).all(), (measured, probabilities)


# ----------------------------------------------------------------------------------------------- how a token is chosen

P = np.array([0.5, 0.05, 0.3, 0.15])                            # not in order
LOGITS = np.log(P) + 3                                          # which a constant does not change


def test_greedy():
    assert choose([1, 5, 3]) == 1
    assert choose([1, 5, 5]) == 1                               # the first of equals
    assert choose([-3, -1, -2]) == 1


@pytest.mark.parametrize("sampling, probabilities", [
    (dict(temperature=1), P),
    (dict(temperature=2), np.sqrt(P) / np.sqrt(P).sum()),       # p^(1/temperature)
    (dict(temperature=0.5), P ** 2 / (P ** 2).sum()),
    (dict(temperature=1, top_k=1), [1, 0, 0, 0]),
    (dict(temperature=1, top_k=2), [5 / 8, 0, 3 / 8, 0]),
    (dict(temperature=1, top_k=3), [50 / 95, 0, 30 / 95, 15 / 95]),
    (dict(temperature=1, top_k=100), P),
    (dict(temperature=1, top_p=0.01), [1, 0, 0, 0]),            # the best one always stays
    (dict(temperature=1, top_p=0.49), [1, 0, 0, 0]),
    (dict(temperature=1, top_p=0.51), [5 / 8, 0, 3 / 8, 0]),
    (dict(temperature=1, top_p=0.79), [5 / 8, 0, 3 / 8, 0]),
    (dict(temperature=1, top_p=0.81), [50 / 95, 0, 30 / 95, 15 / 95]),
    (dict(temperature=1, top_p=0.96), P),
    (dict(temperature=1, top_p=1.0), P),
    # top_p is of what top_k has left: 50, 30, 15 of 95; the first two hold 0.842
    (dict(temperature=1, top_k=3, top_p=0.83), [5 / 8, 0, 3 / 8, 0]),
    (dict(temperature=1, top_k=3, top_p=0.85), [50 / 95, 0, 30 / 95, 15 / 95]),
    # top_p is of the tempered distribution: at 0.5 it is .684, .007, .247, .062
    (dict(temperature=0.5, top_p=0.66), [1, 0, 0, 0]),
    (dict(temperature=0.5, top_p=0.70), np.array([25, 0, 9, 0]) / 34),
])
def test_sampling(sampling, probabilities):
    agree(frequencies(LOGITS, **sampling), probabilities)


def test_repetition_penalty():
    """Positive logits are divided, negative ones multiplied, each once however often the token came."""
    assert choose([2, -1, 1.5], seen=[0, 1], repetition_penalty=2) == 2         # 1, -2, 1.5
    assert choose([2, -1, 1.5], seen=[0, 1], repetition_penalty=1.3) == 0       # 1.54, -1.3, 1.5
    assert choose([2, 0.8], seen=[0, 0, 0], repetition_penalty=2) == 0          # 1, not 0.25
    assert choose([-1, -1.5], seen=[0], repetition_penalty=1.4) == 0            # -1.4
    assert choose([-1, -1.5], seen=[0], repetition_penalty=1.6) == 1            # -1.6
    assert choose([1, 1.5], seen=[0], repetition_penalty=0.5) == 0              # below 1 it favours: 2
    assert choose([0, -1e-3], seen=[0], repetition_penalty=9) == 0              # 0 stays 0
    assert choose([1, 2], seen=[], repetition_penalty=9) == 1
    agree(frequencies([2, 1, -1], seen=[0, 2], temperature=1, repetition_penalty=2),
          np.exp([1, 1, -2]) / np.exp([1, 1, -2]).sum())
    agree(frequencies([2, 1, -1], seen=[0, 2], temperature=2, repetition_penalty=2),    # the penalty comes first
          np.exp([.5, .5, -1]) / np.exp([.5, .5, -1]).sum())


def test_choosing_changes_no_logits():
    logits = np.array([2, -1, 1], np.float32)
    logits.setflags(write=False)
    for sampling in (Sampling(), Sampling(temperature=1, top_k=2, top_p=.5, repetition_penalty=2)):
        sampling.choose(logits, [0, 1], RANDOM(0))


def test_extreme_temperatures_and_logits():
    assert choose([1, 2, 3], temperature=1e-300) == 2                           # as good as greedy
    assert choose([1e30, 0, -1e30], temperature=1) == 0
    agree(frequencies([1, 2, 3, 4], temperature=1e9), [1 / 4] * 4)              # as good as even
    assert choose([-np.inf, 0, -np.inf], temperature=1) == 1                    # a token that is ruled out


@pytest.mark.parametrize("field, values", [
    ("temperature", [-1, np.nan, np.inf, None, "1", True, 1j]), ("top_k", [0, -3, 2.5, 2.0, "2", True]),
    ("top_p", [0, -0.1, 1.1, np.nan, "0.5", True]), ("seed", [-1, None, 0.5, "0", False]),
    ("repetition_penalty", [0, -1, np.nan, np.inf, None, "1", 1e-300, 1e-31, 1e31])])
def test_sampling_out_of_range(field, values):
    for value in values:
        with pytest.raises(UserError, match=f"^{field} is {re.escape(repr(value))}; it must be a "):
            Sampling(**{field: value})


def test_numbers_of_numpy_are_numbers():
    sampling = Sampling(np.float32(0.5), np.int64(2), np.float64(0.5), np.float32(1.5), np.int32(3))
    assert sampling.choose(np.array([1, 5, 3], np.float32), [1], RANDOM(0)) in (1, 2)


@pytest.mark.parametrize("penalty", [1e-30, 1e30])
@pytest.mark.parametrize("temperature", [0, 1e-300, 1, 1e308])
def test_extreme_penalties(penalty, temperature):
    """A positive logit, a negative one and 0, all seen: none becomes infinite, NaN or a NumPy warning."""
    best = {1e-30: 0, 1e30: 3}[penalty]
    for scale in (1, 1e30):
        logits = np.array([2, -1, 0, 1.5], np.float32) * np.float32(scale)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            chosen = choose(logits, seen=[0, 1, 2], temperature=temperature, repetition_penalty=penalty)
            assert chosen == best or temperature == 1e308
            for sign in (1, -1):                            # all of them seen, and beyond what float32 holds
                assert choose(sign * scale * np.array([3, 2]), seen=[0, 1], temperature=temperature,
                              repetition_penalty=penalty) in (0, 1)


def test_top_p_stops_when_exactly_p_has_gathered():
    """The probabilities are exactly 1/2, 1/4, 1/4; a little more than 1/2 takes another token."""
    logits = np.log(np.float64([2, 1, 1]))
    for top_p, drawn in ((0.5, {0}), (np.nextafter(0.5, 1), {0, 1}), (0.75, {0, 1}), (np.nextafter(0.75, 1), {0, 1, 2})):
        sampling = Sampling(temperature=1, top_p=top_p)
        assert {sampling.choose(logits, [], RANDOM(seed)) for seed in range(50)} == drawn


def test_a_row_s_generator_is_seeded_by_seed_then_row(make_model, make_inputs):
    model = make_model()
    inputs = make_inputs(model.config, (3,), (3,))
    logits = model.logits(inputs)[:, -1]
    first = next(iter(generate(model, inputs, 2, Sampling(temperature=3, seed=7))))
    for row in range(2):
        assert first[row] == Sampling(temperature=3).choose(logits[row], [], RANDOM([7, row]))


# ---------------------------------------------------------------------------------------------------------- the model

@pytest.mark.parametrize("rows", [[("image", 5)], [(4,)], [("image", 3), (6,), ()]], ids=["picture", "text", "batch"])
def test_greedy_is_the_best_of_uncached_logits(make_model, make_inputs, family, rows):
    model = make_model(family, np.float32)
    inputs = whole = make_inputs(model.config, *rows)
    ended = np.zeros(len(inputs.ids), bool)
    for ids in generate(model, inputs, 10):
        best = model.logits(whole)[:, -1].argmax(-1)
        assert np.where(ended, model.config.eos_token_id, best).tolist() == ids.tolist()
        ended |= ids == model.config.eos_token_id
        token = next_token(ids)
        joined = (np.concatenate([getattr(whole, name), getattr(token, name)], 1) for name in ("ids", "types", "mask"))
        whole = Inputs(*joined, whole.media)


def ids_of(model, inputs, n=12, **sampling):
    return np.array(list(generate(model, inputs, n, Sampling(**sampling)))).tolist()


def test_seeds(make_model, make_inputs, family):
    model = make_model(family)
    inputs = make_inputs(model.config, ("image", 3))
    runs = [ids_of(model, inputs, temperature=2, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert runs[0] == runs[1]
    assert len({str(run) for run in runs}) == 4


def test_top_k_of_one_is_greedy(make_model, make_inputs, family):
    model = make_model(family)
    inputs = make_inputs(model.config, ("image", 3), (2,))
    greedy = ids_of(model, inputs)
    for sampling in (dict(temperature=1, top_k=1), dict(temperature=5, top_k=1, seed=9),
                     dict(temperature=1, top_p=1e-9), dict(temperature=1e-9)):
        assert ids_of(model, inputs, **sampling) == greedy


def test_row_draws_the_same_alone_as_first_of_a_batch(make_model, make_inputs):
    """Each row has a random generator of its own, so that others in the batch do not matter."""
    model = make_model()
    rows = [make_inputs(model.config, ("image", 3)), make_inputs(model.config, (2,))]
    alone = ids_of(model, rows[0], temperature=1, seed=4)
    both = ids_of(model, pad(rows, model.config.pad_token_id), temperature=1, seed=4)
    assert [ids[0] for ids in both][:len(alone)] == [ids[0] for ids in alone]
    same = ids_of(model, pad([rows[0]] * 2, model.config.pad_token_id), temperature=1, seed=4)
    assert [a for a, _ in same] != [b for _, b in same]


# --------------------------------------------------------------------------------------------------- scripted answers

@pytest.fixture
def script(make_model, monkeypatch):
    """script(rows of ids, ...) -> a model whose b-th row says these ids one by one, and then others; `calls` counts."""
    def make(*rows, eos=257, **changes):
        model = make_model("cogvlm2", np.float32, vocab_size=300, bos_token_id=256, eos_token_id=eos, pad_token_id=258,
                           **changes)
        model.tokenizer, model.calls, model.read = ByteTokenizer(model.config), 0, []

        def logits(inputs, cache=None, last=False, positions=None):
            step, model.calls = model.calls, model.calls + 1
            model.read.append((inputs, positions))
            result = np.zeros((len(inputs.ids), 1, 300), np.float32)
            for b, ids in enumerate(rows):
                result[b, 0, ids[step] if step < len(ids) else 299] = 9
            return result
        monkeypatch.setattr(model, "logits", logits)
        return model
    return make


def prompt(config, *lengths):
    rows = [np.arange(65, 65 + length)[None] for length in lengths]
    return pad([Inputs(row, np.zeros_like(row), np.ones_like(row)) for row in rows], config.pad_token_id)


def test_eos_stops(script):
    model = script([10, 11, 257, 12])
    assert [ids.tolist() for ids in generate(model, prompt(model.config, 4), 20)] == [[10], [11], [257]]
    assert model.calls == 3                                 # nothing is computed behind eos


def test_each_of_several_eos_stops(script):
    """As "eos_token_id": [257, 10, 11] in config.json. A row that has ended goes on with the first of them."""
    model = script([9, 10, 5], [9, 8, 11, 5], [257, 5])
    model.config = replace(model.config, other_eos_token_ids=(10, 11))
    inputs = prompt(model.config, 4, 2, 3)
    assert np.array(list(generate(model, inputs, 20))).tolist() == [[9, 9, 257], [10, 8, 257], [257, 11, 257]]
    model.calls = 0
    rows = [prompt(model.config, n) for n in (4, 2, 3)]
    assert [(a.text, a.tokens_out, a.finish) for a in answers(model, rows, 20)] == [
        ("", 1, "stop"), ("\x08", 2, "stop"), ("", 0, "stop")]
    for ids, said in (([65, 10, 66], "A"), ([65, 257, 66], "A"), ([65, 66, 11], "AB")):
        model = script(ids)
        model.config = replace(model.config, other_eos_token_ids=(10, 11))
        assert "".join(stream(model, prompt(model.config, 2), 20)) == said


def test_why_an_answer_ended(script):
    """Said by Answer and, once it has ended, by Stream; eos at the last possible place is no cut."""
    for ids, limit, finish in (([65, 257], 9, "stop"), ([65, 257], 2, "stop"), ([65, 66, 67], 2, "length"),
                               ([257], 1, "stop"), ([65], 1, "length")):
        model = script(ids)
        assert answers(model, [prompt(model.config, 2)], limit)[0].finish == finish
        model.calls = 0
        pieces = stream(model, prompt(model.config, 2), limit)
        assert pieces.finish is None
        list(pieces)
        assert pieces.finish == finish
    model = script([65, 257], [65, 66, 67])
    assert [a.finish for a in answers(model, [prompt(model.config, n) for n in (2, 3)], 3)] == ["stop", "length"]
    model = script([10] * 99)                               # cut by the end of the context
    assert answers(model, [prompt(model.config, 60)])[0].finish == "length"


def test_an_answer_that_is_given_up_has_not_ended(script):
    model = script([65, 66, 257])
    pieces = stream(model, prompt(model.config, 2), 9)
    next(pieces)
    pieces.close()
    assert pieces.finish is None


def test_no_prompts_have_no_answers(script):
    assert answers(script([10]), []) == []


@pytest.mark.parametrize("sampling", [{}, dict(temperature=1), dict(temperature=1, top_k=2, top_p=0.5),
                                      dict(repetition_penalty=2)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("step", [0, 2])
def test_logits_that_are_not_finite_are_an_error(script, sampling, value, step):
    """Whatever the sampling, in the prompt or later; not so in a row that has ended."""
    def broken(row, *others):
        model = script([65, 66, 67, 68], *others)
        right, model.calls = model.logits, 0

        def logits(*arguments, **named):
            result = right(*arguments, **named)
            if model.calls == step + 1:
                result[row, 0, 7] = value
            return result
        model.logits = logits
        return model
    for begin in (lambda model: list(generate(model, prompt(model.config, 4, 2), 9, Sampling(**sampling))),
                  lambda model: answers(model, [prompt(model.config, n) for n in (4, 2)], 9, Sampling(**sampling))):
        with pytest.raises(UserError, match="the logits are not finite numbers"):
            begin(broken(0, [257]))
        if step and not sampling:
            begin(broken(1, [257]))
    model = broken(0)
    pieces = stream(model, prompt(model.config, 4), 9, Sampling(**sampling))
    with pytest.raises(UserError, match="the logits are not finite numbers"):
        list(pieces)
    assert pieces.finish is None and model.calls == step + 1


def test_limit_stops(script):
    model = script([10, 11, 12, 13])
    assert [ids.tolist() for ids in generate(model, prompt(model.config, 4), 3)] == [[10], [11], [12]]
    assert model.calls == 3                                 # the last token is not read again


def test_rows_end_at_different_times(script):
    model = script([10, 257, 9, 9], [20, 21, 22, 257], [257])
    steps = list(generate(model, prompt(model.config, 4, 2, 3), 20))
    assert np.array(steps).tolist() == [[10, 20, 257], [257, 21, 257], [257, 22, 257], [257, 257, 257]]
    assert model.calls == 4


def test_what_is_read_while_decoding(script):
    """The prompt, then the tokens one by one as text, each at its row's next position."""
    model = script([10, 11, 12], [20, 21, 22])
    inputs = prompt(model.config, 4, 2)
    list(generate(model, inputs, 3))
    (first, positions), *others = model.read
    assert first is inputs and positions.tolist() == position_ids(inputs.types, inputs.mask).tolist()
    for (token, position), ids, where in zip(others, ([[10], [20]], [[11], [21]]),
                                             ([[4], [3]], [[5], [4]]), strict=True):    # the padded row: 0, 0, 1, 2
        assert (token.ids.tolist(), token.types.tolist(), token.mask.tolist()) == (ids, [[0], [0]], [[1], [1]])
        assert position.tolist() == where


def test_closing_the_iterator_stops_the_work(script):
    model = script(list(range(50)))
    tokens = generate(model, prompt(model.config, 4), 40)
    assert model.calls == 0                                 # and nothing begins before it is asked for
    assert [ids.tolist() for ids in itertools.islice(tokens, 3)] == [[0], [1], [2]]
    tokens.close()
    assert model.calls == 3 and list(tokens) == []
    pieces = stream(model, prompt(model.config, 4), 40)
    model.calls = 0
    assert next(pieces) == "\0"
    pieces.close()
    assert model.calls == 1 and list(pieces) == []


def test_repetition_penalty_counts_the_row_s_text(script, monkeypatch):
    """Prompt and answer of the same row; no padding, no place of a picture (both hold the pad id)."""
    model = script()
    rows = [np.array([[65, 66]]), np.array([[67]])]
    image = Inputs(np.array([[258, 258, 68]]), np.array([[1, 1, 0]]), np.ones((1, 3), int), images(np.zeros((1, 3, 1, 1))))
    inputs = pad([*(Inputs(row, row * 0, row * 0 + 1) for row in rows), image], 258)

    def logits(*_, **__):
        result = np.zeros((3, 1, 300), np.float32)
        result[:, 0, [258, 65, 66, 67, 68, 70]] = [1.5, 2, 2.9, 1.9, 1.8, 1.7]
        return result
    monkeypatch.setattr(model, "logits", logits)
    # penalty 2 halves what was said. Row 0: 65, 66 -> 1, 1.45, so 67 (1.9), then 68, 70, then 258
    # Row 1 has said 67; row 2 has said 68
    steps = np.array(list(generate(model, inputs, 5, Sampling(repetition_penalty=2))))
    assert steps.T.tolist() == [[67, 68, 70, 258, 66], [66, 65, 68, 70, 258], [66, 65, 67, 70, 258]]


# ------------------------------------------------------------------------------------------------------------- limits

@pytest.mark.parametrize("length, new, message", [
    (64, None, "the prompt has 64 tokens; the model's context is 64"),
    (70, 1, "the prompt has 70 tokens; the model's context is 64"),
    (60, 5, "60 tokens and 5 new ones exceed the model's context of 64; ask for 4 at most"),
    (4, 0, "max_new_tokens is 0"),
    (4, -1, "max_new_tokens is -1"),
    (4, "3", "max_new_tokens is '3'; it must be a whole number, 1 or more"),
    (4, 2.0, "max_new_tokens is 2.0"),
    (4, True, "max_new_tokens is True"),
])
def test_context_overflow_before_any_work(script, length, new, message):
    model = script([10])
    for begin in (generate, stream):
        with pytest.raises(UserError, match=message):       # by the call itself: nothing is iterated
            begin(model, prompt(model.config, length), new)
    with pytest.raises(UserError, match=message):
        answers(model, [prompt(model.config, length)], new)
    assert model.calls == 0


def test_limits(script):
    """By default what the context holds, 2048 at most; the context may be filled to its last token."""
    model = script([10] * 3000)
    assert len(list(generate(model, prompt(model.config, 60), 4))) == 4
    assert len(list(generate(model, prompt(model.config, 60)))) == 4
    model = script([10] * 3000, max_position_embeddings=4096)
    assert len(list(generate(model, prompt(model.config, 60)))) == 2048
    model = script([10] * 3000, max_position_embeddings=4096)
    assert len(list(generate(model, prompt(model.config, 60), 2100))) == 2100


def test_padding_on_the_right_is_refused(script):
    model = script([10], [10])
    left = prompt(model.config, 4, 2)
    for rows in (slice(0, 2), slice(1, 2)):
        right = Inputs(*(getattr(left, name)[rows, ::-1] for name in ("ids", "types", "mask")))
        with pytest.raises(UserError, match="padded on the left"):
            generate(model, right)
    assert model.calls == 0


# ---------------------------------------------------------------------------------------------------- words: streaming

TEXTS = ["plain", "zwölf Boxkämpfer", "日本語 😀🇩🇪 e\u0301", " leading space", "\n\n  indented", "a  b", "😀", "",
         "[[012,034,056,078]] twice"]


@pytest.mark.parametrize("text, ended", [*((text, True) for text in TEXTS), *((text, False) for text in TEXTS if text)])
def test_stream(script, text, ended):
    """Every piece is whole characters; joined they are the answer; as soon as a character is complete it comes."""
    content = list(text.encode("utf-8"))
    model = script(content + [257] if ended else content)
    limit = 60 if ended else len(content)
    pieces = list(stream(model, prompt(model.config, 2), limit))
    assert "".join(pieces) == text.lstrip()
    assert all(pieces) and pieces == list(text.lstrip())            # with a token a byte: a piece a character
    model.calls = 0
    answer = answers(model, [prompt(model.config, 2)], limit)[0]
    assert answer.text == str(answer) == text.strip()
    assert (answer.tokens_in, answer.tokens_out) == (2, len(content))


def test_stream_comes_while_it_is_made(script):
    content = "aä日😀".encode()
    model = script(list(content))
    pieces = stream(model, prompt(model.config, 2), len(content))
    assert [(next(pieces), model.calls) for _ in range(4)] == [("a", 1), ("ä", 3), ("日", 6), ("😀", 10)]


@pytest.mark.parametrize("content, expected", [
    (b"ab\xe6\x97", "ab\ufffd"),                            # the limit cuts a character
    (b"\xff\xfeab", "\ufffd\ufffdab"),                      # no UTF-8
    (b"\xc3a", "\ufffda"),                                  # a character that is never completed
])
def test_stream_of_what_is_no_text(script, content, expected):
    model = script(list(content))
    assert "".join(stream(model, prompt(model.config, 2), len(content))) == expected


def test_special_tokens_are_no_text(script):
    model = script([104, 258, 256, 105, 257])
    assert list(stream(model, prompt(model.config, 2), 20)) == ["h", "i"]
    assert list(stream(model, prompt(model.config, 2), 1)) == []


def test_answers_of_a_batch(script):
    """In the rows' order, each with its own lengths."""
    said = ["ja", "[[001,002,003,004]] and [[009,008,020,030;100,100,200,300]]", ""]
    model = script(*([*text.encode(), 257] for text in said), max_position_embeddings=128)
    rows = [prompt(model.config, length) for length in (3, 1, 7)]
    got = answers(model, rows)
    assert [answer.text for answer in got] == said
    assert [answer.boxes for answer in got] == [[], [(1, 2, 3, 4), (9, 8, 20, 30), (100, 100, 200, 300)], []]
    assert [(answer.tokens_in, answer.tokens_out) for answer in got] == [(3, 2), (1, len(said[1])), (7, 0)]
    assert all(isinstance(answer, Answer) and 0 <= answer.seconds < 60 for answer in got)


@pytest.mark.parametrize("template", ["base", "vqa", "chat", None])
def test_ask_and_stream_say_the_same(make_model, template):
    """From pictures and words to words: the whole way, with and without a picture, greedy and drawn."""
    model = make_model("cogvlm2", np.float32, vocab_size=300, bos_token_id=256, eos_token_id=257, pad_token_id=258,
                       max_position_embeddings=512)
    model.tokenizer = ByteTokenizer(model.config)
    picture = RANDOM(0).integers(0, 256, (31, 23, 3), np.uint8)
    drawn = dict(temperature=1, seed=5)
    for image, sampling in ((None, {}), (picture, {}), (picture, drawn), ([picture, picture], {})):
        arguments = dict(history=[("Hi", "Yo")], template=template, max_new_tokens=25) | sampling
        answer = model.ask(image, "Who is it?", **arguments)
        assert "".join(model.stream(image, "Who is it?", **arguments)).strip() == answer.text
        assert answer.tokens_in == model.inputs("Who is it?", image, [("Hi", "Yo")], template).ids.shape[1]


def test_eos_of_the_model_decides(script):
    """The configuration's eos, not the tokenizer's."""
    model = script([65, 66, 67], eos=66)
    model.config = replace(model.config, eos_token_id=66)
    assert [ids.tolist() for ids in generate(model, prompt(model.config, 2), 9)] == [[65], [66]]
