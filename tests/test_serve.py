"""The server as its clients meet it: OpenAI's own client, plain and async, and clients that misbehave."""
import asyncio
import base64
import http.client
import importlib.util
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import test_pairs
from PIL import Image
from test_pairs import PICTURES, SMALL_CLIP, SMALL_SIGLIP, TEXTS
from toy_model import ANSWER

from tinycogvlm import load
from tinycogvlm.cli.main import main
from tinycogvlm.loading import default_weights
from tinycogvlm.model import generate

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
if not importlib.util.find_spec("openai"):
    pytest.skip("could not import 'openai'", allow_module_level=True)

from tinycogvlm.serve.app import Limits, Service  # noqa: E402

ROOT = Path(__file__).parents[1]
folder = test_pairs.folder
PARK = default_weights().parents[1] / "lessons" / "images" / "park.png"


@pytest.fixture(scope="module", autouse=True)
def its_own_client():
    """Imported here, for it takes a second, which a process saves that runs the tests of other files"""
    global openai
    import openai


@contextmanager
def serving(model, limits=None, key=None, name="toy"):
    """(the Service, its port), while a thread runs the server"""
    service = Service(model, name, limits or Limits())
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(service.application(key), log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield service, listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive() and not (service.batcher and service.batcher.thread.is_alive())


@pytest.fixture(scope="module")
def toy_model(toy):
    return load(toy)


@pytest.fixture(scope="module")
def served(toy_model):
    with serving(toy_model, Limits(queue=4, pixels=1_000_000, body=100_000)) as found:
        yield found


def client_at(port, kind="OpenAI", key="any"):
    return getattr(openai, kind)(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=20)


@pytest.fixture(scope="module")
def client(served):
    with client_at(served[1]) as client:
        yield client


def url(size=(20, 10), kind="PNG", picture=None):
    file = io.BytesIO()
    (picture or Image.new("RGB", size, "red")).save(file, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()


def user(text, *urls):
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "high"}} for url in urls]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}] if urls else text}


def ask(client, *messages, **options):
    return client.chat.completions.create(model="toy", messages=list(messages), **options)


def test_an_answer(client, toy_model):
    said = ask(client, user("What?", url()))
    [choice] = said.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (ANSWER, "assistant", "stop")
    assert choice.message.boxes == [[100, 200, 300, 400]] and said.object == "chat.completion" and said.model == "toy"
    prompt = toy_model.inputs("What?", Image.new("RGB", (20, 10), "red")).ids.size
    assert said.usage.to_dict() == {"prompt_tokens": prompt, "completion_tokens": 2, "total_tokens": prompt + 2}


def test_streams(client):
    chunks = list(ask(client, user("What?", url()), stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices == []
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-2].choices[0].delta.boxes == [[100, 200, 300, 400]] and chunks[-1].usage.completion_tokens == 2
    with client.chat.completions.stream(model="toy", messages=[user("What?")]) as events:
        assert events.get_final_completion().choices[0].message.content == ANSWER


def test_the_async_client(served):
    async def talk():
        async with client_at(served[1], "AsyncOpenAI") as client:
            both = await asyncio.gather(*[ask(client, user("What?", url())) for _ in range(3)])
            stream = await ask(client, user("What?"), stream=True)
            return [said.choices[0].message.content for said in both], "".join(
                [chunk.choices[0].delta.content or "" async for chunk in stream])
    assert asyncio.run(talk()) == ([ANSWER] * 3, ANSWER)


def test_earlier_turns_and_a_system_message(served, client, toy_model, monkeypatch):
    """Pictures stand before the text, wherever they came, and a system message before the first question."""
    asked = []
    monkeypatch.setattr(toy_model, "inputs", lambda *given: asked.append(given) or type(toy_model).inputs(toy_model, *given))
    ask(client, {"role": "system", "content": "Be brief."}, user("What?", url()), {"role": "assistant", "content": ANSWER},
        user("Which colour?", url((5, 6))))
    [(question, pictures, history, template)] = asked
    assert (question, history, template) == ("Which colour?", [("Be brief.\nWhat?", ANSWER)], None)
    assert [picture.size for picture in pictures] == [(20, 10), (5, 6)]


@pytest.mark.parametrize("stop, text, finish", [
    ("[[", "A red star ", "stop"), (["never", "star"], "A red ", "stop"), ("300,4001", ANSWER, "stop"),
    ("A", "", "stop"), ("400]].", "A red star [[100,200,300,", "stop")])
def test_stop_strings(client, stop, text, finish):
    said = ask(client, user("What?"), stop=stop).choices[0]
    assert (said.message.content, said.finish_reason) == (text, finish)
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(client, user("What?"), stop=stop, stream=True)]
    assert "".join(pieces) == text


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_limits_of_tokens(client, name):
    said = ask(client, user("What?"), **{name: 1})
    assert (said.choices[0].message.content, said.choices[0].finish_reason) == ("A red star", "length")
    assert said.usage.completion_tokens == 1
    assert ask(client, user("What?"), **{name: 100_000}).choices[0].message.content == ANSWER      # what the context holds


def test_models_and_health(served, client):
    assert [model.id for model in client.models.list()] == ["toy"] and client.models.retrieve("toy").owned_by == "tinycogvlm"
    card = client.models.retrieve("toy")
    assert (card.answers, card.sees) == (True, True)
    with pytest.raises(openai.NotFoundError, match="no model 'a/b'; there is 'toy'"):
        client.models.retrieve("a/b")
    status, body = raw(served[1], "GET", "/health")
    assert (status, body) == (200, {"status": "ok", "model": "toy", "running": 0, "waiting": 0})


BAD = {"no list": ({"messages": "hello"}, "messages must be a list", "messages"),
       "no message": ({"messages": []}, "the last message must be the user's", "messages"),
       "two questions": ({"messages": [user("a"), user("b")]}, "messages[1] has the role 'user', not 'assistant'", "messages"),
       "an answer last": ({"messages": [user("a"), {"role": "assistant", "content": "b"}]}, "must be the user's", "messages"),
       "content": ({"messages": [{"role": "user", "content": None}]}, "the content of messages[0] has None", "messages"),
       "audio": ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "has {'type': 'input_audio'}",
                 "messages"),
       "a picture to fetch": ({"messages": [user("a", "http://127.0.0.1/x.png")]}, "this server fetches nothing", "messages"),
       "a file": ({"messages": [user("a", "file:///etc/passwd")]}, "this server fetches nothing", "messages"),
       "base64": ({"messages": [user("a", "data:image/png;base64,A")]}, "not valid base64", "messages"),
       "no picture": ({"messages": [user("a", "data:image/png;base64,AAAA")]}, "picture 1: not a picture", None),
       "cut": ({"messages": [user("a", url((90, 90))[:-40])]}, "picture 1: the picture is damaged", None),
       "pixels": ({"messages": [user("a", url((1000, 1000)), url((1, 1)))]}, "more than 1,000,000 pixels", "messages"),
       "n": ({"messages": [user("a")], "n": 2}, "n is 1 here", "n"),
       "temperature": ({"messages": [user("a")], "temperature": -1}, "temperature is -1; it must be", "temperature"),
       "seed": ({"messages": [user("a")], "seed": "x"}, "seed is 'x'", "seed"),
       "max_tokens": ({"messages": [user("a")], "max_tokens": 0}, "max_tokens is 0", "max_tokens"),
       "stop": ({"messages": [user("a")], "stop": [""]}, "stop must be a text", "stop"),
       "too long": ({"messages": [user("a b " * 500)]}, "the model's context is 512 tokens", "messages"),
       "too long by far": ({"messages": [user("a" * 90_000)]}, "characters, far more than", None)}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(client, name):
    body, message, param = BAD[name]
    with pytest.raises(openai.BadRequestError) as found:
        client.post("/chat/completions", body={"model": "toy", **body}, cast_to=object)
    error = found.value
    assert message in error.body["message"] and (error.param, error.type) == (param, "invalid_request_error")


def raw(port, method, path, body=b"", **headers):
    """-> (status, JSON)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@pytest.mark.parametrize("status, message, arguments, headers", [
    (400, "not JSON", ("POST", "/v1/chat/completions", b"{"), {}),
    (400, "not JSON", ("POST", "/v1/chat/completions", b"[" * 90_000), {}),
    (400, "not JSON", ("POST", "/v1/chat/completions", b"\xff"), {}),
    (400, "must be a JSON object", ("POST", "/v1/chat/completions", b"[]"), {}),
    (400, "half a character", ("POST", "/v1/chat/completions",
                               b'{"model": "toy", "messages": [{"role": "user", "content": "\\ud83d"}]}'), {}),
    (404, "no model 'gpt'", ("POST", "/v1/chat/completions", b'{"model": "gpt"}'), {}),
    (413, "larger than 100,000 bytes", ("POST", "/v1/chat/completions", b" " * 100_001), {}),
    (415, "Content-Type", ("POST", "/v1/chat/completions", b"{}"), {"Content-Type": "text/plain"}),
    (404, "no POST /v1/responses here", ("POST", "/v1/responses", b"{}"), {}),
    (405, "no GET /v1/chat/completions here", ("GET", "/v1/chat/completions"), {}),
    (400, "toy answers questions", ("POST", "/v1/embeddings", b"{}"), {}),
    (403, "Host", ("GET", "/v1/models"), {"Host": "evil.example"}),
    (403, "Host", ("GET", "/v1/models"), {"Host": "127.0.0.1.evil.example"})])
def test_refusals(served, status, message, arguments, headers):
    found, body = raw(served[1], *arguments, **headers)
    assert found == status and message in body["error"]["message"] and set(body["error"]) == {
        "message", "type", "param", "code"}


def test_a_key(toy_model):
    with serving(toy_model, key="secret") as (_, port):
        with client_at(port, key="secret") as client:
            assert ask(client, user("What?")).choices[0].message.content == ANSWER
        with client_at(port, key="secreT") as client, pytest.raises(openai.AuthenticationError, match="the API key is wrong"):
            client.models.list()
        assert raw(port, "GET", "/health")[0] == 200 and raw(port, "GET", "/v1/models")[0] == 401


class Slow:
    """The toy's model, whose forward pass waits for `go` and counts its steps"""

    def __init__(self, model, monkeypatch):
        self.go, self.begun, self.steps, whole = threading.Semaphore(0), 0, 0, model.logits

        def logits(*arguments, **options):
            self.begun += 1
            assert self.go.acquire(timeout=20)
            self.steps += 1
            return whole(*arguments, **options)
        monkeypatch.setattr(model, "logits", logits)


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_early_close_ends_the_row(toy_model, monkeypatch):
    """A client that leaves a stream: the row is gone before the next token, and the next client is answered."""
    slow = Slow(toy_model, monkeypatch)
    monkeypatch.setattr(generate.Sampling, "choose", lambda *_: 70)                     # never an end
    with serving(toy_model) as (service, port), client_at(port) as client:
        slow.go.release(4)
        stream = ask(client, user("What?"), stream=True)
        for _ in range(3):
            next(stream)
        [row] = service.batcher.batch.rows
        stream.close()
        until(lambda: row.gone)
        steps = slow.steps
        slow.go.release(100)
        until(lambda: not service.batcher.batch.rows)
        assert slow.steps <= steps + 1                      # the one under way
        assert ask(client, user("What?"), max_tokens=3).usage.completion_tokens == 3


def test_a_client_that_leaves_before_the_answer(toy_model, monkeypatch):
    slow = Slow(toy_model, monkeypatch)
    monkeypatch.setattr(generate.Sampling, "choose", lambda *_: 70)
    with serving(toy_model) as (service, port):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": "toy", "messages": [user("What?")]}),
                           {"Content-Type": "application/json"})
        slow.go.release(2)
        until(lambda: slow.steps == 2)
        [row] = service.batcher.batch.rows
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        until(lambda: row.gone)
        slow.go.release(2)
        until(lambda: not service.batcher.batch.rows)


@pytest.mark.slow
def test_a_full_queue_and_an_answer_that_takes_too_long(toy_model, monkeypatch):
    slow = Slow(toy_model, monkeypatch)
    with serving(toy_model, Limits(batch=1, queue=1, seconds=3)) as (service, port), client_at(port) as client:
        late = []

        def one():
            try:
                ask(client, user("What?"))
            except openai.APIStatusError as error:
                late.append(error.status_code)
        threads = [threading.Thread(target=one) for _ in range(2)]
        threads[0].start()
        until(lambda: slow.begun)
        threads[1].start()
        until(lambda: service.batcher.waiting)
        with pytest.raises(openai.RateLimitError) as found:
            ask(client, user("What?"))
        assert found.value.response.headers["retry-after"] == "1" and found.value.code == "queue_full"
        for thread in threads:
            thread.join(10)
        assert late == [504, 504]
        slow.go.release(100)


def test_a_body_that_does_not_arrive(toy_model):
    """It holds the one place of those that are read, then ends with 408."""
    with serving(toy_model, Limits(queue=1, upload=0.5)) as (service, port):
        slow = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        slow.putrequest("POST", "/v1/chat/completions")
        for name, value in ("Content-Type", "application/json"), ("Content-Length", "1000"):
            slow.putheader(name, value)
        slow.endheaders(b'{"model": ')
        until(lambda: service.reading)
        status, body = raw(port, "POST", "/v1/chat/completions", b"{}")
        assert status == 429 and "1 requests are being read already" in body["error"]["message"]
        answer = slow.getresponse()
        assert answer.status == 408 and "did not arrive within 0.5 seconds" in json.load(answer)["error"]["message"]
        assert not service.reading


def test_an_error_in_the_middle_of_a_stream(toy_model, monkeypatch):
    whole, count = toy_model.logits, [0]

    def logits(*arguments, **options):
        count[0] += 1
        return whole(*arguments, **options) * (np.nan if count[0] == 2 else 1)
    monkeypatch.setattr(toy_model, "logits", logits)
    with serving(toy_model) as (_, port), client_at(port) as client:
        stream, said = ask(client, user("What?"), stream=True), []
        with pytest.raises(openai.APIError, match="the logits are not finite"):
            said.extend(chunk.choices[0].delta.content for chunk in stream)
        assert ask(client, user("What?")).choices[0].message.content == ANSWER
        count[0] = 1
        monkeypatch.setattr(toy_model, "logits", lambda *_, **__: 1 / 0)
        with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
            ask(client, user("What?"))


@pytest.mark.parametrize("config", [SMALL_CLIP, SMALL_SIGLIP], ids=lambda config: config["model_type"])
def test_embeddings(folder, config):
    """Of texts and pictures mixed, in the request's order, as the client decodes them from base64 and as numbers"""
    model = load(folder(config, "pair"))
    words, pictures = model.text_features(TEXTS), model.image_features(PICTURES[:1])
    wanted = np.stack([words[0], pictures[0], words[1]])
    given = [TEXTS[0], url(picture=Image.fromarray(PICTURES[0])), TEXTS[1]]
    with serving(model) as (_, port), client_at(port) as client:
        for encoding in ({}, {"encoding_format": "float"}):
            found = client.embeddings.create(model="toy", input=given, **encoding)
            assert np.array_equal([each.embedding for each in found.data], wanted)
            assert [each.index for each in found.data] == [0, 1, 2]
            assert found.usage.prompt_tokens == model.ids(TEXTS).size
        assert np.array_equal(client.embeddings.create(model="toy", input=TEXTS[1]).data[0].embedding,
                              model.text_features(TEXTS[1:])[0])
        for wrong in ([], [1, 2], "data:image/png,x", ["a"] * 257):
            with pytest.raises(openai.BadRequestError):
                client.embeddings.create(model="toy", input=wrong)
        with pytest.raises(openai.BadRequestError, match="toy is a (CLIP|SigLIP), which answers no questions"):
            ask(client, user("What?"))


def test_many_at_once_are_answered_as_each_alone(monkeypatch):
    """The bundled model, 6 conversations of different lengths, sampled and greedy, three in a batch: words as `ask` has."""
    model, picture = load(), Image.open(PARK)
    questions = ["What is the background?", "Where is the dog?", "How many things are there?", "Describe the picture.", "What is left of the dog?", "Which colours?"]
    options = [{"temperature": float(i % 2), "seed": i, "max_tokens": 5 + 4 * i} for i in range(6)]
    alone = [model.ask(picture, question, max_new_tokens=each["max_tokens"], temperature=each["temperature"],
                       seed=each["seed"]) for question, each in zip(questions, options)]
    address = url(picture=picture)

    async def talk(port):
        async with client_at(port, "AsyncOpenAI") as client:
            return await asyncio.gather(*[ask(client, user(question, address), **each)
                                          for question, each in zip(questions, options)])
    with serving(model, Limits(batch=3)) as (_, port):
        said = asyncio.run(talk(port))
    assert [(each.choices[0].message.content, each.choices[0].finish_reason, each.usage.completion_tokens)
            for each in said] == [(each.text, each.finish, each.tokens_out) for each in alone]


def test_the_documented_client(monkeypatch, capsys):
    """The program of docs/serving.md, word for word but for the port, asks the bundled model."""
    program = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    monkeypatch.chdir(ROOT)
    model = load()
    with serving(model, name=default_weights().name) as (_, port):
        exec(program.replace(":8000/", f":{port}/"), {})
    answer = model.ask(PARK, "Where is the dog?")
    assert capsys.readouterr().out == f"{answer.text} {[list(box) for box in answer.boxes]}\n"


def test_the_command(toy):
    """From the shell: it says where it is, answers there, and ends at Ctrl-C."""
    command = [sys.executable, "-m", "tinycogvlm", "serve", "--port", "0", "--weights", str(toy)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            lines = iter(process.stderr.readline, "")
            port = next(int(found[1]) for line in lines if (found := re.search(r"http://127.0.0.1:(\d+)/v1; Ctrl-C", line)))
            until(lambda: not refuses(port))
            with client_at(port) as client:
                [model] = client.models.list()
                said = client.chat.completions.create(model=model.id, messages=[user("What?", url())])
                assert said.choices[0].message.content == ANSWER
            code = main(["serve", "--port", str(port), "--weights", str(toy)])
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)
    assert (code, process.returncode) == (1, 130)


def refuses(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
