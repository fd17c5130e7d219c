"""tinycogvlm look: what the model looked at, and what it nearly said, token by token."""
from ..errors import UsageError, UserError
from ..inputs import heat
from ..model import generate
from ..model.look import likeliest, look
from ..model.without import without
from .answer import computing, load_model, load_picture, sampling
from .say import echo, echo_json, say, writable_picture, write_picture

SHOWN = 3                                                   # runners-up, and words of a layer


def run(arguments):
    if arguments.image == "-" and (arguments.out or arguments.layer is not None or arguments.head is not None):
        raise UsageError('--out, --layer and --head need a picture; IMAGE is "-"')
    with computing(arguments), without(*arguments.without):
        return look_and_draw(arguments)


def look_and_draw(arguments):
    out = writable_picture(arguments.out)
    picture = None if arguments.image == "-" else load_picture(arguments, arguments.image)
    model = load_model(arguments)
    inputs = model.inputs(arguments.question, picture, template=arguments.template)
    choose = generate.Sampling(**sampling(arguments))
    answer = [int(token) for [token] in generate.generate(model, inputs, arguments.max_new_tokens, choose)]
    if arguments.token >= len(answer):
        raise UserError(f"no token {arguments.token}; the answer has {len(answer)}, from 0")
    found = look(model, inputs, answer, arguments.token)
    shown = None if picture is None else found.heat(layer=arguments.layer, head=arguments.head)
    report = {"answer": [word(model, token) for token in answer], "token": arguments.token, "without": arguments.without,
              "experts": ["vision" if vision else "language" for vision in found.vision],
              "runners_up": words(model, found.lens[-1], SHOWN + 1),
              "layers": [{"says": words(model, logits, SHOWN), "to_pictures": to_pictures(found, i)}
                         for i, logits in enumerate(found.lens)],
              "heat": None if shown is None else shown.tolist()}
    if arguments.json:
        echo_json(report)
    else:
        for line in lines(report):
            echo(line)
    if out:
        write_picture(out, heat.draw(picture, shown))
        say(f"{out}: where the model looked before {report['answer'][arguments.token]!r}; in all {shown.sum():.0%} of "
            "its attention")
    return 0


def lines(report):
    """The report for people"""
    token, vision = report["token"], report["experts"].count("vision")
    yield " ".join(f"{i}:{text!r}" for i, text in enumerate(report["answer"]))
    if report["without"]:
        yield "without " + ", ".join(report["without"])
    yield (f"before token {token}: {vision} tokens by the vision expert{spans(report['experts'])}, "
           f"{len(report['experts']) - vision} by the language expert")
    yield "probabilities: " + listed(report["runners_up"])
    for i, layer in enumerate(report["layers"]):
        yield f"layer {i}: {layer['to_pictures']:4.0%} of the attention to the picture; it would say {listed(layer['says'])}"


def spans(experts):
    """Where the vision expert's tokens stand: " (2-66)" """
    ends = [i for i, (one, other) in enumerate(zip(["", *experts], [*experts, ""])) if (one == "vision") != (other == "vision")]
    return f" ({', '.join(f'{first}-{last - 1}' for first, last in zip(ends[::2], ends[1::2]))})" * bool(ends)


def listed(words):
    return ", ".join(f"{text!r} {probability:.1%}" for text, probability in words)


def to_pictures(found, layer):
    """How much of a layer's attention goes to the tokens of pictures, boi and eoi included"""
    return float(found.attention[layer, :, found.types > 0].sum(0).mean())


def words(model, logits, count):
    return [[word(model, token), probability] for token, probability in likeliest(logits, count)]


def word(model, token):
    return model.tokenizer.decode([token], special=True)
