"""The picture of the page in docs/serving.md and README, from the bundled model:      python tests/page_picture.py"""
from pathlib import Path

import numpy as np

from browser import Browser
from test_page import PICTURE, QUESTION, asked
from test_serve import serving
from tinycogvlm import load
from tinycogvlm.model.look import look

PATH = Path(__file__).parents[1] / "docs" / "page.png"
SIZE = 1280, 1010


def sharpest(model, answer, token):
    """The (layer, head) that attends most to the patches whose middle lies in the answer's box"""
    x0, y0, x1, y1 = model.ask(PICTURE, QUESTION).boxes[0]
    found = look(model, model.inputs(QUESTION, PICTURE), answer, token)
    side = len(found.heat())
    middle = (np.arange(side) + 0.5) * 1000 / side
    inside = np.outer((middle > y0) & (middle < y1), (middle > x0) & (middle < x1))
    L, H = found.attention.shape[:2]
    return max(((i, h) for i in range(L) for h in range(H)), key=lambda place: found.heat(1, *place)[inside].sum())


if __name__ == "__main__":
    model = load()
    with serving(model) as (_, port), Browser(*SIZE) as browser:
        browser.open(f"http://127.0.0.1:{port}/")
        browser.until("document.body?.dataset.ready == 'yes'")
        asked(browser, QUESTION)
        browser.run("look.open(turns[0])")
        browser.until("view?.data")
        layer, head = sharpest(model, browser.run("view.ids"), 0)
        browser.run("toggle('expert:vision')")
        browser.until("view.data.without.length")
        browser.run("toggle('expert:vision')")
        browser.until("!view.data.without.length")
        browser.run(f"Object.assign(view, {{layer: {layer}, head: {head}}}); look.draw()")
        browser.run("toggle('expert:vision')")
        browser.until("view.data.without.length")
        browser.run("scrollTo(0, 0); document.activeElement.blur()")
        browser.screenshot().quantize(200, method=2).save(PATH, optimize=True)
    print(f"{PATH}: layer {layer}, head {head}, {PATH.stat().st_size // 1024} kB")
