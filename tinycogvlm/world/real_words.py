"""Questions for a language model that knows English, each worded twice: about a picture, and about a name.

"What does it eat?" asks the same of a drawn cow as "What do cows eat?" asks of nobody's picture. What a language model
says to the second is what the same model with eyes should say to the first: no answer is written here.
"""
from dataclasses import dataclass, replace

from .scenes import KINDS, Dice
from .sketches import ANY, sketch
from .wordings import listed, plural, with_article

KNOWN = replace(ANY, unknown=0)                             # any hand, but only what has a name
ONE, SIDES, TOGETHER = "one", "sides", "together"           # what is asked about: the thing, one of several, all
ANY_SIZE = (26, 88)                                         # pixels of 112, for a thing that is alone in its picture
SCENES = 1000                                               # pictures whose things are asked about together
FIRST = 50_000_000                                          # number of the first scene


@dataclass(frozen=True)
class Wording:
    """A question of some kind

    seen: as it is asked about the picture. told: as it is asked about names: {a} a cow, {s} cows, {n} cow, {all} a cow
    and a bus. about: ONE, SIDES or TOGETHER. trained: whether training ever asks it. shapes: whether it is asked about
    coloured shapes, too.
    """
    kind: str
    seen: str
    told: str
    about: str = ONE
    trained: bool = True
    shapes: bool = False

    def of(self, *names):
        """The question about these names"""
        return self.told.format(a=with_article(names[0]), s=plural(names[0]), n=names[0],
                                all=listed([with_article(name) for name in names]))


def _one(kind, *pairs, unseen=(), shapes=False):
    return tuple(Wording(kind, *pair, trained=pair not in unseen, shapes=shapes) for pair in (*pairs, *unseen))


def _other(about, kind, *pairs, unseen=()):
    return tuple(Wording(kind, *pair, about, pair not in unseen, True) for pair in (*pairs, *unseen))


WORDINGS = (
    *_one("name", ("What is this?", "What is {a}?"), ("What is it?", "What is {a}?"),
          ("What is in the picture?", "The picture shows {a}. What is in the picture?"),
          ("What does the picture show?", "The picture shows {a}. What does the picture show?"),
          ("What do you see?", "The picture shows {a}. What do you see?"),
          unseen=(("What can you see here?", "The picture shows {a}. What can you see here?"),), shapes=True),
    *_one("description", ("Describe it.", "Describe {a}."), ("What does it look like?", "What does {a} look like?"),
          ("Explain to a child what it is.", "Explain to a child what {a} is."),
          unseen=(("Can you describe it?", "Can you describe {a}?"),)),
    *_one("use", ("What is it used for?", "What is {a} used for?"), ("How do people use it?", "How do people use {s}?"),
          ("Why do people like it?", "Why do people like {s}?"), ("Is it useful?", "Are {s} useful?"),
          unseen=(("What is it good for?", "What are {s} good for?"),)),
    *_one("food", ("What does it eat?", "What do {s} eat?"), ("What does it drink?", "What do {s} drink?"),
          unseen=(("What is its favourite food?", "What is the favourite food of {s}?"),)),
    *_one("eating it", ("Can I eat it?", "Can I eat {a}?"), ("What does it taste like?", "What do {s} taste like?"),
          ("Is it healthy?", "Are {s} healthy?"), unseen=(("How would I cook it?", "How would I cook {a}?"),)),
    *_one("place", ("Where does it live?", "Where do {s} live?"), ("Where would I find it?", "Where would I find {a}?"),
          ("Where does it come from?", "Where do {s} come from?"), ("Where can I buy one?", "Where can I buy {a}?"),
          unseen=(("In which countries is it common?", "In which countries are {s} common?"),)),
    *_one("sound", ("What sound does it make?", "What sound does {a} make?"), ("Is it loud?", "Are {s} loud?")),
    *_one("colour", ("What colour is it?", "What colour are {s}?"), ("Is it colourful?", "Are {s} colourful?"),
          unseen=(("Which colour does it usually have?", "Which colour do {s} usually have?"),)),
    *_one("size", ("How big is it?", "How big is {a}?"), ("How heavy is it?", "How heavy is {a}?"),
          ("Does it fit into a box?", "Does {a} fit into a box?")),
    *_one("danger", ("Is it dangerous?", "Are {s} dangerous?"), ("Should I be afraid of it?", "Should I be afraid of {s}?"),
          unseen=(("Can it hurt me?", "Can {a} hurt me?"),)),
    *_one("story", ("Tell me a short story about it.", "Tell me a short story about {a}."),
          ("Write a poem about it.", "Write a poem about {a}."), ("Sing a song about it.", "Sing a song about {s}."),
          ("Tell me a joke about it.", "Tell me a joke about {a}.")),
    *_one("small talk", ("I saw one today.", "I saw {a} today."), ("Do you like it?", "Do you like {s}?"),
          ("I would like to have one.", "I would like to have {a}."),
          unseen=(("My friend has one.", "My friend has {a}."),)),
    *_one("fact", ("Tell me something about it.", "Tell me something about {s}."),
          ("What is special about it?", "What is special about {s}?"), ("Why is it famous?", "Why are {s} famous?"),
          unseen=(("Tell me a fun fact about it.", "Tell me a fun fact about {s}."),), shapes=True),
    *_one("parts", ("What is it made of?", "What are {s} made of?"), ("What parts does it have?", "What parts do {s} have?"),
          ("What is inside it?", "What is inside {a}?")),
    *_one("movement", ("How does it move?", "How do {s} move?"), ("Can it fly?", "Can {s} fly?"),
          ("Can it swim?", "Can {s} swim?"), unseen=(("How fast is it?", "How fast are {s}?"),)),
    *_one("history", ("What is its history?", "What is the history of {s}?"), ("How old can it get?", "How old can {a} get?"),
          ("Who invented it?", "Who invented {s}?")),
    *_one("sort", ("What kind of thing is it?", "What kind of thing is {a}?"), ("Is it alive?", "Are {s} alive?"),
          ("What is similar to it?", "What is similar to {a}?"), ("What goes well with it?", "What goes well with {s}?")),
    *_one("how to", ("How do I draw it?", "How do I draw {a}?"), ("How do I take care of it?", "How do I take care of {a}?"),
          ("How do I make one?", "How do I make {a}?")),
    *_one("words", ("What is it called in French?", "What is {a} called in French?"),
          ("What does it mean in a dream?", "What does {a} mean in a dream?"), ("What could I call it?", "What could I call my {n}?"),
          ("Which words go with it?", "Which words go with {n}?")),
    *_other(SIDES, "left and right", ("What is on the {side}?", "What is {a}?"),
            ("What is the thing on the {side}?", "What is {a}?"),
            ("Tell me something about the thing on the {side}.", "Tell me something about {s}."),
            ("Describe the thing on the {side}.", "Describe {a}."),
            unseen=(("Explain what is on the {side}.", "What is {a}?"),)),
    *_other(TOGETHER, "everything", ("What do you see?", "The picture shows {all}. What do you see?"),
            ("What is in the picture?", "The picture shows {all}. What is in the picture?"),
            ("Describe the picture.", "The picture shows {all}. Describe the picture."),
            ("Tell me a short story about them.", "Tell me a short story about {all}.")),
    *_other(TOGETHER, "number", ("How many things are there?", "The picture shows {all}. How many things are there?"),
            ("Which is the biggest?", "Which is the biggest: {all}?"),
            ("What do they have in common?", "What do {all} have in common?"),
            ("Could they be friends?", "Could {all} be friends?")))


@dataclass(frozen=True)
class Query:
    """A question about a picture, and the same as the teacher reads it"""
    scene: object
    wording: Wording
    seen: str
    told: str
    names: tuple                                            # what it is about


def query(split, number, about, wordings, manner=None, things=None, sizes=None):
    """Query `number` of a split about ONE thing, one of the SIDES, or all things TOGETHER; None where no wording fits"""
    dice = Dice(f"{split} real words {about}", number)
    fewest, most = things or ((1, 1) if about == ONE else (2, 4))
    s = sketch(split, number, (fewest, most), manner=manner or KNOWN, sizes=sizes or (ANY_SIZE if most == 1 else None))
    names, side = tuple(thing.name for thing in s.things), dice.choice(("left", "right"))
    if len(names) < fewest:                                 # not all found room
        return None
    if about == SIDES:
        names = names[:1] if side == "left" else names[-1:]
    able = [wording for wording in wordings
            if wording.about == about and (wording.shapes or all(name in KINDS for name in names))]
    if not able:
        return None
    wording = dice.choice(able)
    return Query(s, wording, wording.seen.format(side=side), wording.of(*names), names)
