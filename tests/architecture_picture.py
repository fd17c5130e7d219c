"""CogVLM in one drawing, with the part lit that a lesson is about:      python tests/architecture_picture.py

Writes lessons/architecture/*.svg, one for each name of LIT. Orange is vision, blue is language, grey is both. The
ground is white, so that the drawing reads the same on a dark page.
"""
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parents[1] / "lessons" / "architecture"
LIT = {"pixels": "the pixels", "patches": "the patches", "attention": "attention, in the vision tower and in the decoder",
       "tower": "the vision tower", "adapter": "the adapter", "tokens": "the tokens of the question",
       "decoder": "the decoder layers with the language expert, and the head",
       "decoding": "the head, the answer, and the way back into the sequence", "sequence": "the sequence",
       "expert": "the vision expert in each decoder layer", "answer": "the answer"}
PALE, STRONG = 0, 1
ORANGE, BLUE, GREY = ("#fdf1e8", "#f4b183"), ("#edf4fa", "#9cc3e6"), ("#f4f4f4", "#cfcfcf")
INK = ("#707070", "#000000")
WIDTH, HEIGHT = 720, 262


class Drawing:
    """parts: its elements. An element says by which names of LIT it is lit: then it is strong, otherwise pale."""

    def __init__(self, lit):
        assert lit in LIT, f"{lit} is no part of the drawing; its parts are {', '.join(LIT)}"
        self.lit, self.parts = lit, []

    def strength(self, names):
        assert LIT.keys() >= set(names.split()), names
        return STRONG if self.lit in names.split() else PALE

    def box(self, x, y, w, h, colour, names, words=""):
        strong = self.strength(names)
        self.parts.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="3" fill="{colour[strong]}" '
                          f'stroke="{INK[strong]}" stroke-width="{(0.6, 1.8)[strong]}"/>')
        self.text(x + w / 2, y + h / 2 + 4, words, names)

    def text(self, x, y, words, names):
        strong = self.strength(names)
        if words:
            self.parts.append(f'<text x="{x:g}" y="{y:g}" fill="{INK[strong]}" '
                              f'font-weight="{("normal", "bold")[strong]}">{escape(words)}</text>')

    def arrow(self, *points, names=""):
        """Through the points, right-angled; the last one has the head."""
        strong = self.strength(names)
        line = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline points="{line}" fill="none" stroke="{INK[strong]}" '
                          f'stroke-width="{(1, 2)[strong]}" marker-end="url(#head{strong})"/>')


def alt(lit):
    """The drawing in words"""
    return f"CogVLM, from pixels to words; lit: {LIT[lit]}"


def architecture(lit):
    """The drawing as SVG"""
    d = Drawing(lit)
    vision(d)
    for i, name in enumerate(["bos", "boi", "p", "p", "p", "eoi", "t", "t"]):
        d.box(168 + 24 * i, 170, 24, 24, ORANGE if 1 <= i <= 5 else BLUE, "sequence", name)
    d.text(264, 212, "one sequence", "sequence")
    d.text(44, 186, "“What is it?”", "tokens")
    d.arrow((88, 182), (96, 182))
    d.box(98, 168, 52, 28, BLUE, "tokens", "tokens")
    d.arrow((152, 182), (165, 182))
    d.arrow((362, 182), (377, 182))
    layers(d)
    d.arrow((580, 182), (593, 182))
    d.box(596, 168, 42, 28, BLUE, "decoder decoding", "head")
    d.arrow((640, 182), (653, 182))
    d.text(684, 186, "“A dog.”", "decoding answer")
    d.arrow((685, 196), (685, 250), (348, 250), (348, 198), names="decoding")
    d.text(515, 244, "each word is read in its turn", "decoding")
    heads = "".join(f'<marker id="head{i}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="{7 - 2 * i}" '
                    f'markerHeight="{7 - 2 * i}" orient="auto"><path d="M0,0 8,4 0,8z" fill="{INK[i]}"/></marker>'
                    for i in (PALE, STRONG))
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
                      f'height="{HEIGHT}" font-size="12" font-family="Helvetica, Arial, sans-serif" text-anchor="middle">',
                      f"<title>{alt(lit)}</title><defs>{heads}</defs>",
                      f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff"/>', *d.parts, "</svg>", ""])


def vision(d):
    """Pixels, patches, vision tower, adapter: the row above"""
    for i in range(36):
        d.box(16 + 10 * (i % 6), 28 + 10 * (i // 6), 10, 10, ORANGE, "pixels")
    d.text(46, 108, "pixels", "pixels")
    d.arrow((82, 58), (98, 58))
    for i in range(9):
        d.box(103 + 22 * (i % 3), 26 + 22 * (i // 3), 19, 19, ORANGE, "patches")
    d.text(134, 108, "patches", "patches")
    d.arrow((172, 58), (188, 58))
    for back in (12, 6, 0):
        d.box(192 + back, 28 - back, 112, 66, ORANGE, "tower")
    d.box(200, 34, 96, 24, ORANGE, "tower attention", "attention")
    d.box(200, 64, 96, 24, ORANGE, "tower", "MLP")
    d.text(254, 108, "vision tower", "tower")
    d.arrow((318, 58), (334, 58))
    d.box(338, 40, 70, 36, ORANGE, "adapter", "adapter")
    d.arrow((373, 78), (373, 138), (252, 138), (252, 160))
    d.parts.append(f'<path d="M195,168v-6h114v6" fill="none" stroke="{INK[d.strength("sequence")]}"/>')


def layers(d):
    """The decoder layers: a language expert and a vision expert around one attention"""
    for back in (12, 6, 0):
        d.box(380 + back, 118 - back, 186, 106, (BLUE[PALE], BLUE[PALE]), "decoder")
    for x, colour, names, title in ((386, BLUE, "decoder", "language"), (474, ORANGE, "expert", "vision")):
        d.box(x, 124, 86, 24, colour, names, "q, k, v")
        d.box(x, 180, 86, 24, colour, names, "MLP")
        d.text(x + 43, 218, title, names)
    d.box(386, 152, 174, 24, GREY, "decoder attention", "attention")
    d.text(487, 98, "decoder layers, two experts", "decoder")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in LIT:
        (FOLDER / f"{name}.svg").write_text(architecture(name), encoding="utf-8")
