"""The model computed by the kernels on the CPU runner: every tensor of the prompt's pass, every token of an answer."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import random_inputs, random_leaves, tiny_config
from tinycogvlm import contracts
from tinycogvlm.cli import main
from tinycogvlm.evaluate import quantisation
from tinycogvlm.model import generate
from tinycogvlm.nn import ops, trace
from tinycogvlm.nn.arrays import bfloat16_bits, from_bfloat16_bits, wide
from tinycogvlm.nn.swap import current
from tinycogvlm.kernels import ops as kernel_ops
from tinycogvlm.kernels.engine import Engine
from tinycogvlm.errors import UserError
from tinycogvlm.model.generate import Sampling
from tinycogvlm.kernels.runner import build
from tinycogvlm.model.look import look
from tinycogvlm.serve.batch import Batch, Row
from tinycogvlm.model.cogvlm import CogVLM

WHY_NOT = build.cpu_runner()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def models(family, dtype=np.float32, seed=0, **changes):
    """The same weights in a CogVLM of `dtype` and in an Engine. Heads have 8 numbers, which float16 reads at once;
    queries and keys are small, so that no softmax amplifies a rounding."""
    config = tiny_config(family, hidden_size=48, num_attention_heads=6, intermediate_size=40, **changes)
    leaves = {name: (leaf / 2 if "query_key_value" in name else leaf).astype(dtype)
              for name, leaf in random_leaves(config, np.float32, seed).items()}
    return CogVLM(config, leaves), Engine(config, leaves)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_tensor_of_a_prompt(family, dtype):
    """Two rows, padded, one with two images; and a text alone. As close to float64 as NumPy's arithmetic comes, which
    has its own errors: random weights make them larger from layer to layer."""
    model, engine = models(family, dtype)
    exact = CogVLM(model.config, {name: leaf.astype(np.float64) for name, leaf in model.leaves.items()})
    for rows in ([("image", 4, "image", 2), (3,)], [(4,)]):
        inputs, records = random_inputs(model.config, *rows), []
        for each in (exact, model, engine):
            with trace.recording() as found:
                assert each.logits(inputs).dtype == (np.float64 if each is exact else np.float32)
            records.append({name: real(array, inputs) for name, array in found.items()})
        expected, numpys, actual = records
        assert set(expected) - set(actual) <= {"vit/patch_conv"}
        for name, array in actual.items():
            size = max(1, np.abs(expected[name]).max())
            allowed = 4 * np.abs(numpys[name] - expected[name]).max() / size + np.finfo(dtype).eps
            contracts.close(array / size, expected[name] / size, allowed, name)


def real(array, inputs):
    """The rows of real tokens in float64: what comes of padding, which sees nothing, is nobody's."""
    (B, T), array = inputs.mask.shape, np.asarray(array, np.float64)
    if array.ndim == 3 and array.shape[:2] == (B, T):
        return array[inputs.mask != 0]
    if array.ndim == 4 and array.shape[0] == B and array.shape[2] == T:
        return array.swapaxes(1, 2)[inputs.mask != 0]
    return array


@pytest.mark.parametrize("sampling", [
    Sampling(), Sampling(repetition_penalty=1.5), Sampling(temperature=0.8, seed=3),
    Sampling(temperature=1.3, top_k=7, seed=1), Sampling(temperature=1.0, top_p=0.8, repetition_penalty=1.2, seed=2)],
    ids=["greedy", "repetition penalty", "sampled", "top-k", "top-p and penalty"])
def test_the_same_tokens(family, sampling):
    """Of a padded batch: the readable model's decoding, the same with kernels under its ops, and the launches alone."""
    model, engine = models(family)
    inputs = random_inputs(model.config, ("image", 4), (3,), ("image", 2, "image", 3))
    wanted = list(generate.generate(model, inputs, 7, sampling))
    assert len(wanted) > 3 and len(set(map(tuple, wanted))) > 2
    assert np.array_equal(list(generate.generate(engine, inputs, 7, sampling)), wanted)


def test_the_readable_twin_of_decoding(family):
    model, engine = models(family)
    inputs = random_inputs(model.config, ("image", 4))
    assert type(engine).steps is not CogVLM.steps
    launches = list(generate.generate(engine, inputs, 6))
    engine.steps = lambda *arguments: generate.steps(engine, *arguments)
    assert np.array_equal(list(generate.generate(engine, inputs, 6)), launches)


def test_each_of_several_eos_ends_an_answer(family):
    """The second token that the first row says is made an eos, beside the one of the configuration."""
    model, engine = models(family)
    inputs = random_inputs(model.config, ("image", 4), (3,))
    said = list(generate.generate(model, inputs, 7))
    for each in (model, engine):
        each.config = replace(model.config, other_eos_token_ids=(int(said[1][0]), 29))
    wanted = list(generate.generate(model, inputs, 7))
    assert [ids[0] for ids in wanted[1:]] == [said[1][0], *[model.config.eos_token_id] * (len(wanted) - 2)]
    assert len(wanted) > 2 and np.array_equal(list(generate.generate(engine, inputs, 7)), wanted)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1)], ids=["greedy", "sampled"])
def test_logits_that_are_not_finite_are_an_error(family, sampling):
    """From the prompt on, and from the first token chosen on; with check_finite the layer is named."""
    model, _ = models(family)
    inputs = random_inputs(model.config, ("image", 4))
    token = int(next(iter(generate.generate(model, inputs, 1, sampling)))[0])
    rows, norm = model.leaves["model.embed_tokens.weight"].copy(), model.leaves["model.layers.1.input_layernorm.weight"]
    rows[token] = np.nan
    for name, leaf, first, steps in (
            ("model.layers.1.input_layernorm.weight", norm * np.float32(np.inf), "lm/layer1/input_norm", 0),
            ("model.embed_tokens.weight", rows, "lm/embeds", 1)):
        for checked, sentence in ((False, "the logits are not finite numbers"),
                                  (True, f"^{first} is the first tensor")):
            broken = Engine(model.config, model.leaves | {name: leaf}, check_finite=checked)
            said = generate.generate(broken, inputs, 5, sampling)
            assert [int(next(said)[0]) for _ in range(steps)] == [token] * steps
            with pytest.raises(UserError, match=sentence):
                list(said)


def test_a_row_that_has_ended_may_be_anything():
    """After its end of text a row's logits are nobody's: NaN there harms no other row. Its second token is made an end,
    and the embedding of its third, with which it goes on, becomes NaN."""
    model, engine = models("cogvlm1", seed=1)
    inputs = random_inputs(model.config, ("image", 4), (3,))
    said = np.array(list(generate.generate(model, inputs, 6)))
    after, others = said[2, 0], [*said[:, 1], *inputs.ids.ravel(), *said[:2, 0]]
    assert after not in others and said[1, 0] not in others[:6]
    config = replace(model.config, other_eos_token_ids=(int(said[1, 0]),))
    table = model.leaves["model.embed_tokens.weight"].copy()
    table[after] = np.nan
    broken = Engine(config, engine.leaves | {"model.embed_tokens.weight": table})
    found = np.array(list(generate.generate(broken, inputs, 6)))
    assert np.array_equal(found[:, 1], said[:, 1]) and np.array_equal(found[:2], said[:2])


def test_what_float16_cannot_hold_is_an_error():
    """An MLP whose inner numbers are larger than 65504 and whose result is not: right in float32."""
    def large(leaves):
        scale = {"up_proj": 2e4, "down_proj": 1 / 2e4}
        return {name: (leaf * scale.get(name.split(".")[-2], 1) if "layers.1.mlp" in name else leaf).astype(leaf.dtype)
                for name, leaf in leaves.items()}
    for dtype in (np.float32, np.float16):
        model, _ = models("cogvlm1", dtype)
        engine = Engine(model.config, large(model.leaves))
        inputs = random_inputs(model.config, ("image", 4))
        if dtype == np.float32:
            assert np.array_equal(list(generate.generate(engine, inputs, 5)), list(generate.generate(model, inputs, 5)))
        else:
            with pytest.raises(UserError, match="larger than float16 holds, which --activations float32 avoids"):
                list(generate.generate(engine, inputs, 5))


def test_activations_in_bfloat16(family):
    """As near to the exact numbers as a few roundings to 8 bits are, tensor by tensor, also where the position table is interpolated; NaN
    among the bits is noticed."""
    model, _ = models(family)
    W, positions = model.config.vision.hidden_size, "model.vision.patch_embedding.position_embedding.weight"
    exact = model.leaves | {positions: contracts.random(1 + 7 * 7, W).astype(np.float32)}
    bits = {name: bfloat16_bits(leaf) for name, leaf in exact.items()}
    exact = CogVLM(model.config, {name: from_bfloat16_bits(leaf) for name, leaf in bits.items()})
    engine, inputs = Engine(model.config, bits), random_inputs(model.config, ("image", 4), (3,))
    with trace.recording() as wanted:
        exact.logits(inputs)
    with trace.recording() as found:
        assert engine.logits(inputs).dtype == np.float32
    for name in wanted.keys() & found.keys():
        if found[name].dtype == np.uint16 or name == "lm/logits":
            error = quantisation.relative_error(real(wide(found[name]), inputs), real(wanted[name], inputs))
            assert error < 8 * 2 ** -8, (name, error)       # in root mean square
    assert found["vit/patch_embed"].dtype == np.uint16
    bits["model.layers.1.input_layernorm.weight"] = np.full(model.config.hidden_size, 0x7FC0, np.uint16)
    with pytest.raises(UserError, match="^lm/layer1/input_norm is the first tensor that is not finite"):
        Engine(model.config, bits, check_finite=True).logits(inputs)


def test_pictures_are_read_ahead_of_questions_by_the_kernels():
    """evaluate.asking reads them by `hidden`, inside of `answering`."""
    _, engine = models("cogvlm1")
    with engine.answering():
        assert current(ops.linear) is kernel_ops.linear and current(ops.residual) is kernel_ops.residual
    assert current(ops.linear) is ops.linear.own


@pytest.mark.slow
def test_the_trained_model_answers_the_same(capsys):
    """As a command, with the model that comes along: 17 tokens about a picture."""
    ask = ["ask", str(Path(__file__).parent.parent / "lessons" / "images" / "park.png"), "Where is the dog?"]
    assert main.main(ask) == 0
    wanted = capsys.readouterr().out
    assert wanted.startswith("[[") and main.main([*ask, "--kernels"]) == 0 and capsys.readouterr().out == wanted


def test_gradients_are_refused():
    model, engine = models("cogvlm1")
    inputs = random_inputs(model.config, (3,))
    with pytest.raises(UserError, match="gives? answers, not gradients"):
        engine.loss(inputs, inputs.ids)


@pytest.mark.slow
def test_rows_that_join_a_running_batch_and_a_look_inside(family):
    """serve's batches and `look` on the kernels: the tokens of each row alone, the logits that chose the first."""
    model, engine = models(family)
    rows, said = [random_inputs(model.config, row) for row in (("image", 4), (3,), (2, "image", 5))], {0: [], 1: [], 2: []}
    wanted = [[int(token) for [token] in generate.generate(engine, row, 5)] for row in rows]
    batch = Batch(engine)
    for i, inputs in enumerate(rows):
        batch.join([Row(inputs, 5, Sampling(), lambda token, i=i: said[i].append(token) or True, lambda reason: None)])
        batch.step()
    while batch.rows:
        batch.step()
    assert list(said.values()) == [[token for token in row if token not in model.config.eos_token_ids] for row in wanted]
    for inputs, answer in zip(rows, wanted):
        found = look(engine, inputs, answer, 0)
        assert np.abs(found.lens[-1] - engine.logits(inputs, last=True)[0, 0]).max() < 1e-5
        assert np.abs(found.attention.sum(-1) - 1).max() < 1e-5
