"""What stands beside the lessons is right: the table of the course, the glossary, the map of the paper."""
import re
from xml.etree import ElementTree

import pytest

from architecture_picture import LIT, alt, architecture
from architecture_picture import FOLDER as DRAWINGS
from tinycogvlm.learn.course import lessons
from tinycogvlm.learn.markdown import LINK, read
from tinycogvlm.train.ablation.variants import VARIANTS

FOLDER = lessons()[0].folder.parent
GLOSSARY = re.split(r"^## ", (FOLDER / "glossary.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


def test_the_course_at_a_glance():
    """Number, title, minutes (a lesson that is edited may be two off) and exercise of every lesson, and no other."""
    table = [[cell.strip() for cell in line.split("|")[1:-1]]
             for _, line in read(FOLDER / "README.md")[1] if re.match(r"\| \d\d ", line)]
    assert [row[0] for row in table] == [lesson.number for lesson in lessons()]
    for lesson, (number, link, question, minutes, functions) in zip(lessons(), table):
        path = lesson.folder / "README.md"
        blocks, prose = read(path)
        title = next(line for _, line in prose if line.startswith("# "))
        assert title[2:5] == f"{number} "
        for written in [*path.parent.glob("solution.py"), *path.parent.glob("exercise.*")]:
            assert re.match(r'("""|// )' + number, written.read_text(encoding="utf-8")), written
        assert LINK.match(link).groups() == ("", title[5:], f"{lesson.folder.name}/README.md")
        words = sum(len(line.split()) for _, line in prose)
        assert abs(int(minutes) - (words / 200 + len(blocks) / 4)) < 2.5, number
        assert re.findall(r"`(\w+)`", functions) == list(lesson.functions) and question


def test_the_glossary_is_in_order():
    terms = [entry.partition("\n")[0].lower() for entry in GLOSSARY]
    assert terms == sorted(terms) and len(terms) == len(set(terms))


def test_the_glossary_has_the_words_of_the_field():
    words = """adapter, attention, backpropagation, batch, chain rule, checkpoint, convolution, cross-attention, cross-entropy,
        decoder, embedding, encoder, epoch, fine-tuning, gradient, gradient descent, grouped-query attention, KV cache,
        LayerNorm, learning rate, logits, LoRA, loss, MLP, multi-head attention, one-hot, optimizer, parameters, prefill,
        quantisation, residual connection, RMSNorm, self-attention, softmax, tensor, token, tokenizer, transformer, weight decay"""
    assert not {word.strip() for word in words.split(",")} - {entry.partition("\n")[0] for entry in GLOSSARY}


@pytest.mark.parametrize("entry", GLOSSARY, ids=lambda entry: entry.partition("\n")[0])
def test_the_lesson_of_a_term_has_the_term(entry):
    term, _, text = entry.partition("\n")
    number, target = re.search(r"\[Lesson (\d\d)\]\((\S+)\)", text).groups()
    lesson = (FOLDER / target).read_text(encoding="utf-8").lower()
    assert target.startswith(number)
    for word in re.split(r", | and ", term.lower()):
        assert word in lesson, f"{target} has no {word}"


def test_the_map_has_every_row_of_the_ablation():
    text = (FOLDER / "map.md").read_text(encoding="utf-8")
    table = text.partition("row of the ablation")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| .+? \| `([\w-]+)`", table, re.MULTILINE)
    assert rows == [variant.name for variant in VARIANTS]


@pytest.mark.parametrize("name", LIT)
def test_the_drawing_with_a_part_lit_is_what_its_code_draws(name):
    """To renew the files: python tests/architecture_picture.py"""
    drawn = architecture(name)
    assert (DRAWINGS / f"{name}.svg").read_text(encoding="utf-8") == drawn
    assert drawn.count('font-weight="bold"') >= 1, "nothing is lit"
    assert len(ElementTree.fromstring(drawn)) > 50


def test_each_drawing_stands_at_the_opening_of_a_lesson_and_says_what_is_lit():
    shown = {}
    for lesson in lessons():
        opening = (lesson.folder / "README.md").read_text(encoding="utf-8").partition("\n## ")[0]
        for picture, label, target in LINK.findall(opening):
            if target.startswith("../architecture/"):
                name = target.removeprefix("../architecture/").removesuffix(".svg")
                assert picture and label == alt(name)
                shown[lesson.number] = name
    assert set(shown.values()) == set(LIT) == {path.stem for path in DRAWINGS.iterdir()}
    assert {f"{number:02}" for number in range(2, 13)} <= shown.keys()


def test_a_part_that_the_drawing_lacks_cannot_be_lit():
    with pytest.raises(AssertionError, match="nose is no part of the drawing; its parts are pixels, patches"):
        architecture("nose")
