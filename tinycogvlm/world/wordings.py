"""How questions are worded, and the grammar of names. Wordings that come more often stand in a tuple more than once."""
from ..inputs import prompt

YES, NO = "Yes {boxes}.", "No."                             # answers to "Is there a dog?"

CAPTION = ("Describe the image.",) * 3 + ("Describe the picture.", "What is in the picture?", "What is in the image?",
                                          "What do you see?", "What is this?")
GROUNDED = (prompt.CAPTION_WITH_BOXES, "Describe the image with boxes.", "What is in the picture, and where?")
WHERE = ("Where is {phrase}?",) * 4 + ("Find {phrase}.", "Point to {phrase}.", prompt.BOX_OF_PHRASE)
WHERE_ARE = ("Where are the {names}?", "Find the {names}.", "Find all {names}.")
AT_BOX = ("What is at {box}?", "What is at {box}?", "What do you see at {box}?", prompt.DESCRIBE_BOX)
COUNT = ("How many things are there?", "How many things are in the picture?", "How many things do you see?",
         "Count the things.")
COUNT_KIND = ("How many {names} are there?", "How many {names} are in the picture?", "How many {names} do you see?",
              "Count the {names}.")
EXISTS = ("Is there {name}?", "Is there {name}?", "Is there {name} in the picture?", "Do you see {name}?",
          "Can you see {name} in the image?")
EACH = ("Which of these are there: {names}?", "Which of these do you see: {names}?")
HALVES = {("left", "right"): ("Left or right: {names}?", "Which are left, which right: {names}?"),
          ("above", "below"): ("Top or bottom: {names}?", "Which are at the top, which at the bottom: {names}?")}
HALF = {"left": "left", "right": "right", "above": "top", "below": "bottom"}
COLOUR = ("What colour is {phrase}?", "What color is {phrase}?", "Which colour is {phrase}?")
RELATIONS = {"left": ("to the left of", "left of", "on the left of", "further left than"),
             "right": ("to the right of", "right of", "on the right of", "further right than"),
             "above": ("above", "higher than", "higher up than", "over"),
             "below": ("below", "lower than", "lower down than", "under")}
# Never used in training, though training uses each of these words
HELD_OUT_WORDING = {"left": "further to the left than", "right": "further to the right than",
                    "above": "further up than", "below": "further down than"}
IS_IT = ("Is {a} {relation} {b}?", "Is {a} {relation} {b}?", "In the picture, is {a} {relation} {b}?")
SIZE = ("Which is bigger, {a} or {b}?", "What is bigger, {a} or {b}?", "Which is larger, {a} or {b}?")
BESIDE = {"left": ("What is to the left of {phrase}?", "What is left of {phrase}?"),
          "right": ("What is to the right of {phrase}?", "What is right of {phrase}?"),
          "above": ("What is above {phrase}?", "What is over {phrase}?"),
          "below": ("What is below {phrase}?", "What is under {phrase}?")}
BESIDE_IT = {"left": "What is to its left?", "right": "What is to its right?",
             "above": "What is above it?", "below": "What is below it?"}
THING_BESIDE = {"left": "the thing left of {phrase}", "right": "the thing right of {phrase}",
                "above": "the thing above {phrase}", "below": "the thing below {phrase}"}
EXTREMES = {"left": ("leftmost",), "right": ("rightmost",), "above": ("topmost", "highest"), "below": ("lowest",)}
BACKGROUND = ("What is the background?", "What is in the background?", "What is behind the things?")


def with_article(name):
    """a dog, an apple"""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def sentence(text):
    return f"{text.capitalize()}."


def plural(name):
    """dogs, foxes, butterflies, fish"""
    if name.endswith("fish"):
        return name
    if name.endswith("y") and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith(("s", "x")) else f"{name}s"


def listed(names):
    """a dog, a red star and a cat"""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def mentioned(name, dice):
    """A name as a question mentions it: mostly "the dog", also "a dog" or "dog"."""
    return dice.choice((f"the {name}", f"the {name}", f"the {name}", with_article(name), name))
