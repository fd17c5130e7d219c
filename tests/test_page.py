"""The page in a real browser, and what its requests get: load, draw, ask, boxes, heat, look inside, switch off."""
import base64
import colorsys
import http.client
import io
import json
import math
import re
import time

import numpy as np
import pytest
from browser import FOUND, Browser
from PIL import Image
from toy_model import ANSWER

from tinycogvlm import load
from tinycogvlm.inputs import grounding
from tinycogvlm.model.look import likeliest, look
from tinycogvlm.model.without import without
from tinycogvlm.world import atlas, colours, scenes

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from test_serve import PARK, Slow, raw, serving, until, url, user  # noqa: E402
from tinycogvlm.serve.app import Limits  # noqa: E402

QUESTION, PICTURE = "Where is the dog?", Image.open(PARK)


@pytest.fixture(scope="module")
def bundled():
    return load()


@pytest.fixture(scope="module")
def port(bundled):
    with serving(bundled, Limits(queue=4)) as (_, port):
        yield port


def post(port, path, **body):
    return raw(port, "POST", path, json.dumps({"model": "toy", **body}))


def get(port, path, **headers):
    """-> (status, headers, bytes)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


# ---------------------------------------------------------------------------------------------------------- looking inside

def test_a_look_is_what_the_model_saw(port, bundled):
    """Of the answer that a chat completion gave: its tokens, runners-up, experts, lens and attention, to half of a byte"""
    said = post(port, "/v1/chat/completions", messages=[user(QUESTION, url(picture=PICTURE))])[1]["choices"][0]["message"]
    assert said["boxes"] == [list(box) for box in grounding.parse(said["content"])[0]] and said["names"] == [""]
    status, seen = post(port, "/v1/look", messages=[user(QUESTION, url(picture=PICTURE))], answer=said["tokens"], token=2, attention=True)
    assert status == 200 and (seen["text"], seen["boxes"], seen["finish"]) == (said["content"], said["boxes"], "length")
    inputs = bundled.inputs(QUESTION, PICTURE)
    found = look(bundled, inputs, said["tokens"], 2)
    assert [token["id"] for token in seen["tokens"]] == said["tokens"]
    assert "".join(token["text"] for token in seen["tokens"]).strip() == said["content"]
    for token, logits in zip(seen["tokens"], found.choices):
        best = likeliest(logits, 4)
        assert [p for _, p in token["runners_up"]] == pytest.approx([p for _, p in best], abs=1e-9)
        assert token["runners_up"][0] == [token["text"], pytest.approx(token["probability"])]
    assert np.array_equal(seen["types"], found.types) and np.array_equal(seen["vision"], found.vision)
    assert (seen["layers"], seen["heads"], seen["grids"], seen["token"]) == (4, 6, [8], 2)
    assert [words[0][0] for words in seen["lens"]][-1] == seen["tokens"][2]["text"]
    most = np.array(seen["attention"]["most"])[..., None]
    weights = np.frombuffer(base64.b64decode(seen["attention"]["bytes"]), np.uint8).reshape(found.attention.shape) / 255 * most
    assert (np.abs(weights - found.attention) <= most / 510 + 1e-7).all()
    assert np.abs(np.array(seen["to_pictures"]) - found.attention[..., found.types > 0].sum(-1)).max() < 1e-4
    assert [text is None for text in seen["prompt"]] == (inputs.types[0] > 0).tolist()


def test_values_are_sent_only_when_asked(port):
    seen = post(port, "/v1/look", messages=[user(QUESTION)], max_tokens=2)[1]
    assert seen["attention"] is None and seen["grids"] == [] and seen["token"] == 0 and len(seen["tokens"]) <= 2


def test_the_answer_again_without_a_part(port, bundled):
    seen = post(port, "/v1/look", messages=[user(QUESTION, url(picture=PICTURE))], without=["expert:vision"], token=99)[1]
    with without("expert:vision"):
        expected = bundled.ask(PICTURE, QUESTION)
    assert seen["text"] == expected.text != bundled.ask(PICTURE, QUESTION).text and not any(seen["vision"])
    assert seen["token"] == len(seen["tokens"]) - 1 and seen["finish"] == "stop" and seen["without"] == ["expert:vision"]


@pytest.mark.parametrize("fields, message, param", [
    ({"answer": []}, "answer is []; it must be a list of token ids", "answer"), ({"answer": [1088]}, "answer is", "answer"),
    ({"answer": [True]}, "answer is", "answer"), ({"answer": [-1]}, "answer is", "answer"), ({"token": -1}, "token is -1", "token"),
    ({"token": True}, "token is True", "token"), ({"answer": [5], "token": 1}, "no token 1; the answer has 1", None),
    ({"without": "layer:2"}, "without must be a list", "without"), ({"without": ["layer"]}, "'layer' is no part", None),
    ({"without": ["layer:4"]}, "no layer 4 to switch off", None), ({"without": ["layer:1"] * 65}, "at most 64", "without"),
    ({"answer": [5] * 2000}, "exceed the model's context", "messages"), ({"messages": []}, "the last message", "messages")])
def test_bad_looks(port, fields, message, param):
    status, body = post(port, "/v1/look", **{"messages": [user("What?")], "max_tokens": 1, **fields})
    assert status == 400 and message in body["error"]["message"] and body["error"]["param"] == param


def test_a_look_ends_when_its_client_leaves(toy, monkeypatch):
    """After the prompt, before a second step; the next one takes the prompt and two tokens more."""
    model = load(toy)
    slow = Slow(model, monkeypatch)
    with serving(model) as (service, port):
        leaves = begun_look(port)
        until(lambda: slow.begun == 1)
        leaves.close()
        until(lambda: service.reading == 0)
        slow.go.release(9)
        status, body = post(port, "/v1/look", messages=[user("What?")])
        assert (status, body["text"], slow.steps) == (200, ANSWER, 1 + 3)


def test_a_look_has_its_time(toy, monkeypatch):
    model = load(toy)
    slow = Slow(model, monkeypatch)
    with serving(model, Limits(seconds=0.2)) as (_, port):
        waits = begun_look(port)
        until(lambda: slow.begun == 1)
        time.sleep(0.25)
        slow.go.release(9)
        assert waits.getresponse().status == 504 and slow.steps == 1


def begun_look(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    body = json.dumps({"model": "toy", "messages": [user("What?")]})
    connection.request("POST", "/v1/look", body, {"Content-Type": "application/json"})
    return connection


# --------------------------------------------------------------------------------------------------------------- the world

def picture_in(address):
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_a_scene_is_painted_as_those_of_the_training(port):
    """A scene of the test set, and the same things painted again: they stand where they stood, turned as they were."""
    status, drawn = post(port, "/v1/world/scene", number=7)
    expected = scenes.scene("test", 7, side=336)
    assert status == 200 and np.array_equal(picture_in(drawn["picture"]), expected.picture)
    assert [thing["name"] for thing in drawn["things"]] == [thing.name for thing in expected.things]
    again = post(port, "/v1/world/scene", background=drawn["background"], seed=7, things=drawn["things"])[1]
    for before, after in zip(drawn["things"], again["things"]):
        assert np.abs(np.subtract(before["box"], after["box"])).max() < 12, before["name"]
        assert {**before, "box": 0, "x": 0, "y": 0} == {**after, "box": 0, "x": 0, "y": 0}
    corner = {"name": "dog", "x": 1000, "y": 0, "size": 50, "angle": 0, "mirrored": True}
    [thing] = post(port, "/v1/world/scene", background="snow", seed=1, things=[corner])[1]["things"]
    assert thing["box"][1:3] == [0, 1000] and thing["mirrored"]


@pytest.mark.parametrize("change, message", [
    ({"name": "unicorn"}, "name is 'unicorn'; it must be one of dog, "), ({"name": ["dog"]}, "name is ['dog']"),
    ({"x": 1001}, "x is 1001; it must be a whole number from 0 to 1000"), ({"y": "1"}, "y is '1'"), ({"size": 1}, "size is 1"),
    ({"size": 10 ** 9}, "size is"), ({"angle": 5}, "angle is 5; it must be one of -20"), ({"angle": False}, "angle is False")])
def test_bad_scenes(port, change, message):
    thing = {"name": "dog", "x": 500, "y": 500, "size": 40, "angle": 0, "mirrored": False}
    assert post(port, "/v1/world/scene", background="snow", seed=1, things=[thing])[0] == 200
    status, body = post(port, "/v1/world/scene", background="snow", seed=1, things=[{**thing, **change}])
    assert status == 400 and message in body["error"]["message"]


@pytest.mark.parametrize("body, message", [
    ({"background": "lava", "seed": 1, "things": []}, "background is 'lava'"), ({"background": "snow", "things": []}, "seed is None"),
    ({"background": "snow", "seed": 1, "things": [{}] * 10}, "at most 9"), ({"number": -1}, "number is -1"), ({}, "things must be")])
def test_bad_scenes_as_a_whole(port, body, message):
    status, said = post(port, "/v1/world/scene", **body)
    assert status == 400 and message in said["error"]["message"]


def test_the_world(port):
    status, world = raw(port, "GET", "/v1/world")
    assert status == 200 and world["kinds"] == list(atlas.EMOJI) and set(world["backgrounds"]) == set(scenes.BACKGROUNDS)
    for name, rgb in world["pens"].items():                 # is a colour of its name, to the rounding of whole numbers
        hsv = np.multiply(colorsys.rgb_to_hsv(*np.divide(rgb, 255)), (360, 100, 100))
        for part, (low, high), turn in zip(hsv, colours.RANGES[name], (360, math.inf, math.inf)):
            assert (part - low + 2) % turn <= high - low + 4, name
    assert tuple(world["pens"]) == colours.NAMES and world["pens"]["white"] == [255] * 3
    status, _, sheet = get(port, "/v1/world/atlas.png")
    assert status == 200 and sheet == atlas.PATH.read_bytes()


# ---------------------------------------------------------------------------------------------------------------- who may

def test_the_page_is_one_file_that_runs_nothing_else(port):
    status, headers, text = get(port, "/")
    policy, text = headers["Content-Security-Policy"], text.decode()
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy and "unsafe" not in policy and policy.count("sha256-") == 2
    assert not re.search(r"\bsrc=|@import|(?<!data:image/svg\+xml,%3Csvg xmlns=')https?://(?!www\.w3\.org)", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function| style=| on\w+=\"", text)


def test_the_page_is_for_this_machine_and_its_requests_need_the_key(toy):
    with serving(load(toy), key="secret") as (_, port):
        assert get(port, "/")[0] == 200 and get(port, "/", Host="evil.example")[0] == 403
        for method, path in ("GET", "/v1/world"), ("GET", "/v1/world/atlas.png"), ("POST", "/v1/world/scene"), ("POST", "/v1/look"):
            assert raw(port, method, path, b"{}")[0] == 401, path


# ------------------------------------------------------------------------------------------------------------- in a browser

def in_browser(test):
    """Half a minute together, in CI"""
    test = pytest.mark.skipif(FOUND is None, reason="no Chromium: apt install chromium-headless-shell")(test)
    return pytest.mark.slow(pytest.mark.xdist_group("browser")(test))


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(browser, port):
    """The page with a picture of its own, nothing asked yet, in a window of a desktop"""
    browser.size(1280, 1700)
    browser.console.clear()
    browser.open(f"http://127.0.0.1:{port}/")
    browser.until("document.body?.dataset.ready == 'yes'")
    yield browser
    assert not browser.console


def asked(page, question=QUESTION):
    """What the model says of PICTURE, which is dropped on the page"""
    page.drop("#stage", "park.png", PARK.read_bytes())
    page.until(f"mode == 'photo' && $('image').complete && $('image').naturalWidth == {PICTURE.width}")
    page.click("#question")
    page.type(question)
    page.press("Enter")
    page.until("turns.length == 1 && !answering")
    return page.run("document.querySelector('.said').textContent")


def seen(page, selector):
    """The part of a screenshot that shows an element"""
    box = page.box(selector)
    return page.screenshot().crop([round(edge) for edge in box])


def colour(page, selector, what):
    return tuple(map(int, re.findall(r"\d+", page.run(f"getComputedStyle(document.querySelector({json.dumps(selector)})).{what}"))[:3]))


@in_browser
def test_ask_and_see_the_boxes(page, bundled):
    """The answer, and in the screenshot frames where the boxes are, in the colours of the words"""
    answer = bundled.ask(PICTURE, "Describe the image with boxes.")
    assert asked(page, "Describe the image with boxes.") == answer.text.replace("[[", "").replace("]]", "")
    assert page.run("[...document.querySelectorAll('.thing')].map(node => node.firstChild.textContent.trim().toLowerCase())") == grounding.names(answer.text)
    shot = np.asarray(seen(page, "#stage"), int)
    for i, box in enumerate(answer.boxes):
        ink = colour(page, f".thing.c{i}", "color")
        assert ink == colour(page, f"#boxes rect.c{i}", "stroke")
        x0, y0, x1, y1 = grounding.to_pixels(box, shot.shape[1], shot.shape[0])
        for x, y in ((x0 + x1) // 2, y0), ((x0 + x1) // 2, y1), (x0, (y0 + y1) // 2), (x1, (y0 + y1) // 2):
            near = shot[max(0, y - 3):y + 4, max(0, x - 3):x + 4].reshape(-1, 3)
            assert np.abs(near - ink).sum(-1).min() < 30, (i, x, y)
    assert len({colour(page, f".thing.c{i}", "color") for i in range(len(answer.boxes))}) == len(answer.boxes)


@in_browser
def test_look_inside_and_switch_off(page, bundled):
    """Heat where the attention is; another token, head and patch; the answer without the vision expert; all on again"""
    said = asked(page)
    page.click(".inside-button")
    page.until("view?.data")
    answer = page.run("view.ids")
    page.click("#tokens button:nth-child(3)")
    page.until("view.data.token == 2")
    found = look(bundled, bundled.inputs(QUESTION, PICTURE), answer, 2)
    layer, head = max(np.ndindex(4, 6), key=lambda place: found.heat(1, *place).max())
    page.click(f"#map button[aria-label^='layer {layer}, head {head}:']")
    heat, shot = found.heat(1, layer, head)[..., None], patches(page)
    page.run("$('heat').hidden = true")
    bare, share = patches(page), (90 + 110 * heat / heat.max()) / 255
    page.run("$('heat').hidden = false")
    assert np.abs(shot - (1 - share) * bare - share * heat / heat.max() * (255, 64, 0)).max() < 4
    assert f"{found.attention[layer, head, found.types > 0].sum():.0%}" in page.run("$('map-note').textContent")
    assert page.run("[...document.querySelectorAll('#lens th')].map(node => node.textContent)") == [f"layer {i}" for i in (3, 2, 1, 0)]
    nearly = [words(bundled, logits, 3) for logits in found.lens[::-1]]
    assert page.run("[...$('lens').rows].map(row => [...row.cells].slice(1).map(cell => cell.textContent))") == nearly
    assert page.run("[...$('runners').querySelectorAll('b')].map(node => node.textContent)") == words(bundled, found.choices[2], 4)
    starts = [i for i, kind in enumerate(found.types) if not kind or not i or found.types[i - 1] != kind]
    assert page.run("[...$('before').children].map(node => node.className)") == ["vision" if found.vision[i] else "language" for i in starts]
    page.click("[data-part='expert:vision']")
    page.until("view.data.without.length == 1")
    with without("expert:vision"):
        expected = bundled.ask(PICTURE, QUESTION).text
    assert page.run("$('changed').textContent") == expected != said and page.run("$('compare').firstChild.lastChild.textContent.includes('[[')")
    page.click("#off button")
    page.until("!view.data.without.length")
    assert page.run("view.data.text") == page.run("turns[0].text") and page.run("$('compare').hidden")
    page.click("#patches", (0.45, 0.3))                     # row 2, column 3
    assert "the patch in row 2, column 3" in page.run("$('spot').textContent")
    patch = int(np.flatnonzero(found.types == 1)[1] + 2 * 8 + 3)
    page.click(f"[data-part='head:{layer}.{head}']")
    page.until("view.data.without.length == 1")
    assert page.run("view.data.without") == [f"head:{layer}.{head}@{patch}"]
    page.click("#before button")
    assert page.run("$('spot').textContent") == "token 0, \u201c<s>\u201d"
    page.click("[data-part='expert:language']")
    page.until("view.data.without.length == 2")
    with without(f"head:{layer}.{head}@{patch}", "expert:language@0"):
        assert page.run("$('changed').textContent") == bundled.ask(PICTURE, QUESTION).text
    page.press("Escape")
    assert page.run("$('panel').hidden && $('heat').hidden && $('boxes').children.length") == 1


def patches(page):
    """The median colour of each patch in a screenshot: (8, 8, 3)"""
    shot = np.asarray(seen(page, "#stage"))
    height, width = shot.shape[0] // 8, shot.shape[1] // 8
    inside = shot[:8 * height, :8 * width].reshape(8, height, 8, width, 3)[:, 4:-4, :, 4:-4]
    return np.median(inside, (1, 3))


def words(model, logits, count):
    """The likeliest tokens as the page writes them"""
    return [model.tokenizer.decode([token], special=True).strip() or "\u2423" for token, _ in likeliest(logits, count)]


@in_browser
def test_a_file_that_is_no_picture_is_refused(page):
    before = page.run("picture")
    page.drop("#stage", "notes.txt", b"not a picture")
    page.until("$('stage-note').textContent == 'notes.txt: the browser cannot read it as a picture'")
    assert page.run("picture") == before and page.run("mode") == "scene"


@in_browser
def test_a_scene_is_drawn_by_mouse_and_keys(page):
    names = page.run("scene.things.map(thing => thing.name)")
    page.click("#search")
    page.type("owl")
    page.press("Enter")
    page.until("scene.things.at(-1).box && !painting")
    assert page.run("scene.things.map(thing => thing.name)") == [*names, "owl"]
    before, x, y, side = page.run("[picture, scene.things.at(-1).x, scene.things.at(-1).y, $('stage').offsetWidth]")
    page.drag("#things button:last-child", 0.1 * side, -0.05 * side)
    page.until(f"picture != {json.dumps(before)} && !painting && !again")
    assert page.run("[scene.things.at(-1).x, scene.things.at(-1).y]") == pytest.approx([x + 100, y - 50], abs=4)
    before, x = page.run("[picture, scene.things.at(-1).x]")
    page.run("$('things').lastChild.focus()")
    page.press("ArrowRight", "+", "r", "m")
    page.until(f"picture != {json.dumps(before)} && !painting && !again")
    assert page.run("(({x, size, angle, mirrored}) => [x, size, angle, mirrored])(scene.things.at(-1))") == [x + 20, 42, 10, True]
    assert 0.5 < page.run("$('things').lastChild.offsetWidth / (336 / 112 * 42) / ($('stage').offsetWidth / 336)") < 1.3
    page.press("Delete")
    page.until("!painting && scene.things.length == " + str(len(names)))


CIRCLE = [(0.4 + 0.25 * math.cos(turn / 4), 0.45 + 0.25 * math.sin(turn / 4)) for turn in range(26)]


def shown(page):
    """The picture that the model gets, which the page shows: (height, width, 3)"""
    page.until("$('image').complete")
    assert page.run("$('image').src == picture && (mode == 'scene' || pad.toDataURL() == picture)")
    return np.asarray(picture_in(page.run("picture")).convert("RGB"), int)


@in_browser
@pytest.mark.parametrize("ink, width", [("red", "thick"), ("blue", "thin")])
def test_a_circle_is_drawn_and_named(page, ink, width):
    page.click("#as-drawing")
    white = shown(page)
    assert white.shape == (672, 672, 3) and (white == 255).all()
    page.click(f"#colours [title={ink}]")
    page.click(f"#widths [title={width}]")
    page.trace("#pad", CIRCLE)
    drawn, rgb = shown(page), page.run(f"world.pens.{ink}")
    across = (drawn[302, :269] == rgb).all(-1).sum()        # through the left side of the circle
    assert across == pytest.approx(672 * page.run(f"WIDTHS.{width}") / 1000, abs=2)
    seen_ink = np.asarray(seen(page, "#stage"), int)[round(0.45 * page.run("pad.clientHeight")), round(0.15 * page.run("pad.clientWidth"))]
    assert np.abs(seen_ink - rgb).max() < 3
    page.click("#question")
    page.type("What is in the picture?")
    page.press("Enter")
    page.until("turns.length == 1 && !answering")
    assert page.run("turns[0].text") == f"A {ink} circle."


@in_browser
def test_strokes_are_undone_cleared_and_kept(page):
    page.click("#as-drawing")
    sheets = [shown(page)]
    for y in 0.2, 0.5, 0.8:
        page.trace("#pad", [(0.1, y), (0.9, y)])
        sheets.append(shown(page))
        assert (sheets[-1] != sheets[-2]).any()
    page.click("#undo")
    assert np.array_equal(shown(page), sheets[2])
    page.call("Input.dispatchKeyEvent", type="keyDown", key="z", modifiers=2)
    assert np.array_equal(shown(page), sheets[1])
    page.click("#as-scene")
    page.until("!painting")
    assert shown(page).shape == (336, 336, 3)
    page.click("#as-drawing")
    assert np.array_equal(shown(page), sheets[1])
    page.click("#clear")
    assert np.array_equal(shown(page), sheets[0])
    page.run("turns = [1]")
    page.click("#clear")
    page.click("#undo")                                     # of nothing: the conversation goes on
    assert page.run("turns.length") == 1


@in_browser
def test_the_pen_follows_a_pointer_over_the_edge(page):
    """Begun outside, over the far edge, back, and released outside: one stroke, and the next is another"""
    page.click("#as-drawing")
    page.trace("#pad", [(-0.03, 0.5), (0.5, 0.5), (1.3, 0.5), (1.3, 0.8), (0.5, 0.8), (-0.03, 0.8)])
    assert page.run("strokes.length") == 1 and page.run("stroke") is None
    inked = (shown(page) == page.run("world.pens.black")).all(-1)
    assert inked[336, 340:].all() and inked[538, 3:].all() and not inked[336, :300].any()
    page.trace("#pad", [(0.2, 0.2)])                        # a click makes a dot
    dot = (shown(page).sum(-1) < 3 * 128)[80:190, 80:190].sum()
    assert page.run("strokes.length") == 2 and dot == pytest.approx(math.pi * (672 * 0.025 / 2) ** 2, rel=0.05)
    x0, y0, x1, y1 = page.box("#pad")
    left, top, _, _ = page.box("#hint")
    page.trace("#pad", [((left + 5 - x0) / (x1 - x0), (top + 5 - y0) / (y1 - y0)), (0.5, 0.5), (0.4, 0.5)])     # selects text
    assert page.run("strokes.length") == 2
    page.call("Input.dispatchMouseEvent", type="mousePressed", x=x0 + 50, y=y0 + 50, button="right", buttons=2)
    page.call("Input.dispatchMouseEvent", type="mouseReleased", x=x0 + 50, y=y0 + 50, button="right")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x0 + 80, y=y0 + 50)
    assert page.run("strokes.length") == 2


@in_browser
def test_a_finger_draws_and_a_second_one_does_not(page):
    page.size(390, 844)
    page.click("#as-drawing")
    x0, y0, x1, y1 = page.box("#pad")

    def touch(kind, *fingers):
        points = [{"x": x0 + x * (x1 - x0), "y": y0 + y * (y1 - y0), "id": finger} for finger, x, y in fingers]
        page.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)

    touch("Start", (0, 0.2, 0.5))
    touch("Move", (0, 0.5, 0.5))
    touch("Start", (0, 0.5, 0.5), (1, 0.9, 0.9))
    touch("Move", (0, 0.6, 0.5), (1, 0.1, 0.1))
    touch("End", (1, 0.1, 0.1))                             # the second is lifted
    touch("Move", (0, 0.8, 0.5))
    touch("End")
    points = np.array(page.run("strokes.flatMap(stroke => stroke.points)")) / 672
    assert page.run("strokes.length") == 1 and page.run("stroke") is None
    assert np.ptp(points[:, 1]) < 0.01 and points[-1, 0] == pytest.approx(0.8, abs=0.01)


@in_browser
def test_a_picture_is_drawn_over(page):
    """The model gets a dropped picture pixel by pixel, then with strokes on it; "Draw" lays a white sheet."""
    page.drop("#stage", "park.png", PARK.read_bytes())
    page.until("mode == 'photo'")
    park = np.asarray(PICTURE.convert("RGB"), int)
    assert np.array_equal(shown(page), park)
    page.click("#colours [title=pink]")
    page.trace("#pad", [(0.2, 0.9), (0.8, 0.9)])
    drawn, changed = shown(page), (shown(page) != park).any(-1)
    assert (drawn[round(0.9 * len(park)), len(park) // 2] == page.run("world.pens.pink")).all() and not changed[:len(park) * 8 // 10].any()
    page.click("#undo")
    assert np.array_equal(shown(page), park)
    page.click("#as-drawing")
    assert (shown(page) == 255).all()


@in_browser
def test_a_photograph_is_sent_upright_and_no_larger_than_a_model_sees(page):
    """As the browser shows it: turned as its camera said"""
    file, photo, turned = io.BytesIO(), Image.new("RGB", (2000, 1000), "navy"), Image.Exif()
    turned[0x0112] = 6                                      # Orientation: turn by 90 degrees to view
    photo.paste("gold", (0, 0, 1000, 1000))
    photo.save(file, "JPEG", exif=turned)
    page.drop("#stage", "photo.jpg", file.getvalue())
    page.until("mode == 'photo'")
    picture = shown(page)
    assert picture.shape == (1344, 672, 3)
    assert (np.abs(picture[:660] - (255, 215, 0)) < 9).all() and (np.abs(picture[684:] - (0, 0, 128)) < 9).all()


@in_browser
def test_a_changed_picture_stops_the_answer_about_the_old_one(page):
    page.click("#as-drawing")
    page.run("void ask('Describe the image with boxes.')")
    page.trace("#pad", [(0.2, 0.2), (0.8, 0.8)])
    page.until("!answering")
    assert page.run("turns.length") == 0 and page.run("$('log').lastChild.classList.contains('past')")


@in_browser
def test_pens_are_chosen_by_keys(page):
    page.click("#as-drawing")
    page.run("$('colours').querySelector('[tabindex=\"0\"]').focus()")
    page.press("ArrowRight", "ArrowRight", "Enter", "Tab", "ArrowRight", "Enter")
    assert page.run("[pen.ink, pen.width]") == ["rgb({}, {}, {})".format(*page.run("world.pens.grey")).replace(" ", ""), page.run("WIDTHS.thick")]
    assert page.run("[...document.querySelectorAll('#pen [aria-pressed=true]')].map(button => button.title)") == ["grey", "thick"]
    page.press("Tab")
    assert page.run("document.activeElement.id") == "undo"


@in_browser
def test_a_model_that_sees_nothing_is_asked_without_a_picture(page):
    page.run("sees = false")
    assert page.run("messages([], 'What?', picture)") == [{"role": "user", "content": "What?"}]
    page.run("sees = true")
    assert page.run("messages([], 'What?', picture)[0].content.map(part => part.type)") == ["image_url", "text"]


@in_browser
def test_what_a_model_says_is_text(page):
    """An answer that looks like HTML or like boxes that are none is shown as it is."""
    text = "<img src=x onerror=alert(1)> a <b>dog</b> [[1,2]] [[010,020,300,400]]."
    page.run(f"document.body.append(make('p', {{id: 'probe'}}, ...coloured({json.dumps({'text': text, 'boxes': [[10, 20, 300, 400]], 'names': ['']})})))")
    assert page.run("$('probe').querySelectorAll('img, b').length") == 0
    assert page.run("$('probe').textContent") == text.replace("[[010", "010").replace("400]]", "400")


@in_browser
def test_no_width_needs_scrolling_sideways_and_every_control_has_a_name(page):
    asked(page)
    narrow(page)
    page.click(".inside-button")
    page.until("view?.data")
    narrow(page)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if not node.get("ignored") and node["role"]["value"] in (
        "button", "textbox", "searchbox", "combobox", "slider", "application")]
    assert len(controls) > 50 and not [node for node in controls if not node["name"]["value"].strip()]


def narrow(page):
    for width, height in (390, 844), (320, 600), (1280, 900):
        page.size(width, height)
        assert page.run("document.documentElement.scrollWidth") <= width
        assert not page.run("[...document.querySelectorAll('button')].filter("
                            "button => button.offsetParent && button.offsetHeight < 22 && !button.matches('.thing')).length")


@in_browser
def test_dark_and_light(page):
    page.size(600, 600)
    light = page.screenshot().getpixel((3, 300))
    page.size(600, 600, dark=True)
    dark = page.screenshot().getpixel((3, 300))
    assert min(light) > 200 and max(dark) < 60
    for dark in (False, True):
        page.size(600, 600, dark)
        ground, ink = (luminance(page.run(f"getComputedStyle(document.body).{name}")) for name in ("backgroundColor", "color"))
        assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) > 7


def luminance(css):
    """Of WCAG 2.2"""
    rgb = np.array([int(number) for number in re.findall(r"\d+", css)[:3]]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@in_browser
def test_a_key_is_asked_for(browser, toy):
    with serving(load(toy), key="secret") as (_, port):
        browser.open(f"http://127.0.0.1:{port}/")
        browser.until("typeof $ != 'undefined' && $('ask-key')?.open")
        browser.click("#key")
        browser.type("secret")
        browser.press("Enter")
        browser.until("document.body.dataset.ready == 'yes'")
        assert browser.run("model") == "toy"
    browser.console.clear()
