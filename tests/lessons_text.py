"""The text of a lesson: links, lines and numbers that are right without running anything."""
import ast
import re

from tinycogvlm.learn.markdown import LINK, read, slug

WIDTH = 100
NUMBER = re.compile(r"(?<![\w.])~?-?\d+(?:,\d{3})*(?:\.\d*)?(?:e[+-]?\d+)?(?!\w)")
BOUND = re.compile(NUMBER.pattern + r"[^<\d]{0,3}<!--= (.+?) -->")


def check_text(path):
    """[(line, sentence)] of links, line lengths, and numbers that no code of the lesson prints"""
    blocks, prose = read(path)
    problems = [(block.line + i, f"{len(line)} characters; {WIDTH} is the most") for block in blocks
                if block.language not in ("text", "") for i, line in enumerate(block.lines) if len(line) > WIDTH
                and (block.language != "console" or line.startswith("$ "))]             # or it is an output
    outputs = [block.output for block in blocks if block.output]
    drawings = [block for block in blocks if block.language in ("text", "") and block not in outputs]
    known = {number.strip("~").replace(",", "") for block in blocks if block not in drawings
             for number in NUMBER.findall(block.text)}
    for number, line in [*prose, *((block.line + i, line) for block in drawings for i, line in enumerate(block.lines))]:
        if len(shown := LINK.sub(lambda link: f"[{link[2]}]", line)) > WIDTH and not line.startswith("|"):
            problems.append((number, f"{len(shown)} characters; {WIDTH} is the most"))
        for picture, label, target in LINK.findall(line):
            if picture and not label:
                problems.append((number, f"{target}: a picture without words for those who do not see it"))
            if said := wrong_link(path, label, target):
                problems.append((number, said))
        bare = LINK.sub(lambda link: link[2], BOUND.sub("", line))
        for found in NUMBER.findall(re.sub(r"https?://\S+|arXiv:\S+", "", bare)):
            plain = found.replace(",", "").lstrip("-~")
            if ("." in plain.rstrip(".") or len(plain.rstrip(".")) > 2) and not re.fullmatch(r"(19|20)\d\d\.?", plain) \
                    and plain.rstrip(".") not in known and "-" + plain not in known:
                problems.append((number, f"no code of this lesson shows the number {found}; print it, or bind it: "
                                         f"{found}<!--= expression -->"))
    return problems


def wrong_link(path, label, target):
    """What is wrong with a link, or None"""
    if re.match("https?://", target):
        return None
    name, _, fragment = target.partition("#")
    file = (path.parent / name).resolve() if name else path
    if not file.exists():
        return f"{target}: no such file"
    if re.fullmatch(r"L\d+", fragment):
        line = definition(file, label)
        if line is None:
            return f"{label} is not defined in {name}"
        return None if fragment == f"L{line}" else f"{label} is defined at {name}#L{line}, not {fragment}"
    if fragment and fragment not in anchors(file):
        return f"{target}: no such heading"


def definition(file, label):
    """The line that defines `ops.rms_norm`, CogVLM.ask or a kernel, or None"""
    name = label.strip("`").removesuffix("()")
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        last = re.escape(name.rpartition(".")[2])
        bounds = r"(?:.*__launch_bounds__\(.*\)\n)?"         # the name stands on the line after them
        found = re.search(rf"^.*(?:__global__|__device__|struct|#define)\b{bounds}.*\b{last}\b", text, re.MULTILINE)
        return found and text.count("\n", 0, found.end()) + 1
    lines = {}

    def walk(node, before):
        for child in node.body:
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                lines.setdefault(before + child.name, child.lineno)
                if isinstance(child, ast.ClassDef):
                    walk(child, f"{before}{child.name}.")
            for target in getattr(child, "targets", [getattr(child, "target", None)]):
                if isinstance(target, ast.Name):
                    lines.setdefault(before + target.id, child.lineno)
    walk(ast.parse(text), "")
    return lines.get(name, lines.get(name.partition(".")[2], lines.get(name.rpartition(".")[2])))


def anchors(file):
    """What a link may name of a Markdown file"""
    return {slug(line.lstrip("# ")) for _, line in read(file)[1] if re.match("#+ ", line)}
