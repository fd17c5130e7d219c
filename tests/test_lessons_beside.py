"""What stands beside the lessons is right: the table of the course, the glossary, the map of the paper."""
import re

import pytest

from lessons_text import LINK, read
from tinycogvlm.learn.course import lessons
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
        assert LINK.match(link).groups() == ("", title[5:], f"{lesson.folder.name}/README.md")
        words = sum(len(line.split()) for _, line in prose)
        assert abs(int(minutes) - (words / 200 + len(blocks) / 4)) < 2.5, number
        assert re.findall(r"`(\w+)`", functions) == list(lesson.functions) and question


def test_the_glossary_is_in_order():
    terms = [entry.partition("\n")[0].lower() for entry in GLOSSARY]
    assert terms == sorted(terms) and len(terms) == len(set(terms)) >= 60


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
    table = text.partition("row of Table 6")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| .+? \| `([\w-]+)`", table, re.MULTILINE)
    assert rows == [variant.name for variant in VARIANTS]
