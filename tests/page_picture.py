"""The picture of the page in docs/serving.md and README, from the bundled model:      python tests/page_picture.py"""
from pathlib import Path

import numpy as np

from browser import Browser
from test_page import PICTURE, asked
from test_serve import serving
from tinycogvlm import load
from tinycogvlm.inputs import grounding
from tinycogvlm.model.look import look

PATH = Path(__file__).parents[1] / "docs" / "page.png"
SIZE, QUESTION = (1280, 1200), "Describe the image with boxes."


def sharpest(model, answer, token):
    """The (layer, head), below the last layer, that attends most to the patches whose middle lies in the first box"""
    x0, y0, x1, y1 = grounding.parse(model.tokenizer.decode(answer))[0][0]
    found = look(model, model.inputs(QUESTION, PICTURE), answer, token)
    side = len(found.heat())
    middle = (np.arange(side) + 0.5) * 1000 / side
    inside = np.outer((middle > y0) & (middle < y1), (middle > x0) & (middle < x1))
    L, H = found.attention.shape[:2]
    return max(((i, h) for i in range(L - 1) for h in range(H)), key=lambda place: found.heat(1, *place)[inside].sum())


if __name__ == "__main__":
    model = load()
    with serving(model) as (service, port), Browser(*SIZE) as browser:
        service.name = "tiny"
        browser.open(f"http://127.0.0.1:{port}/")
        browser.until("document.body?.dataset.ready == 'yes'")
        asked(browser, QUESTION)
        browser.run("look.open(turns[0])")
        browser.until("view?.data")
        answer = browser.run("view.ids")
        token = next(i for i in range(len(answer)) if "[[" in model.tokenizer.decode(answer[:i + 1]))
        layer, head = sharpest(model, answer, token)
        browser.run(f"Object.assign(view, {{token: {token}, layer: {layer}, head: {head}}}); toggle('layer:{model.config.num_hidden_layers - 1}')")
        browser.until("view.data.without.length")
        browser.run("scrollTo(0, 0); document.activeElement.blur()")
        browser.screenshot().quantize(250, method=2).save(PATH, optimize=True)
    print(f"{PATH}: layer {layer}, head {head}, {PATH.stat().st_size // 1024} kB")
