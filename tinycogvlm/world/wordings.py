"""How questions are worded, and the grammar of names. Wordings that come more often stand in a tuple more than once."""
from dataclasses import dataclass

from ..inputs import prompt


@dataclass(frozen=True)
class Wordings:
    """The ways to ask a question; those unseen never occur in training, though all of their words do."""
    trained: tuple
    unseen: tuple


def trained(wordings, dice):
    return dice.choice(wordings.trained)


def unseen(wordings, dice):
    return dice.choice(wordings.unseen)


YES, NO = "Yes {boxes}.", "No."                             # answers to "Is there a dog?"
DO_NOT_KNOW = "I do not know that thing."                   # of what has no name in this world
NO_PICTURE = "I see no picture."                            # where one is asked about a picture and there is none

CAPTION = Wordings(
    ("Describe the image.",) * 3 + ("Describe the picture.", "What is in the picture?", "What is in the image?",
                                    "What do you see?", "What is this?", "What is this?", "What is shown here?",
                                    "Name the things in the picture.", "Tell me what you see.", "List what is there.",
                                    "Say what is in the image."),
    ("Tell me what is in the picture.", "Name what you see in the image."))
GROUNDED = Wordings(
    (prompt.CAPTION_WITH_BOXES, "Describe the image with boxes.", "What is in the picture, and where?",
     "Name the things with boxes.", "Say what is there, and where.", "List the things and where they are.",
     "Describe the picture with a box for each thing.", "What do you see, and where is it?"),
    ("Describe the picture with boxes.", "Name the things in the picture, and where they are."))
WHERE = Wordings(
    ("Where is {phrase}?",) * 4 + ("Find {phrase}.", "Point to {phrase}.", prompt.BOX_OF_PHRASE, "Show me {phrase}.",
                                   "Give the box of {phrase}.", "Where in the picture is {phrase}?",
                                   "Where do you see {phrase}?", "Tell me where {phrase} is."),
    ("Show me where {phrase} is.", "Find {phrase} in the picture."))
WHERE_ARE = Wordings(
    ("Where are the {names}?", "Find the {names}.", "Find all {names}.", "Point to all {names}.", "Show me the {names}.",
     "Give the boxes of the {names}.", "Where do you see {names}?", "Where in the picture are the {names}?"),
    ("Show me all {names}.", "Point to the {names}."))
AT_BOX = Wordings(
    ("What is at {box}?",) * 2 + ("What do you see at {box}?", prompt.DESCRIBE_BOX, "What is in the box {box}?",
                                  "Name the thing at {box}.", "What is shown at {box}?", "Which thing is at {box}?",
                                  "Tell me what is at {box}."),
    ("What do you see in the box {box}?", "Say what is at {box}."))
COUNT = Wordings(
    ("How many things are there?", "How many things are in the picture?", "How many things do you see?",
     "Count the things.", "How many things can you see?", "Give the number of things.", "Count what you see.",
     "How many things are shown?"),
    ("How many things are in the image?", "Count the things in the picture."))
COUNT_KIND = Wordings(
    ("How many {names} are there?", "How many {names} are in the picture?", "How many {names} do you see?",
     "Count the {names}.", "How many {names} can you see?", "Give the number of {names}.",
     "How many {names} are shown?", "Count all {names}."),
    ("How many {names} are in the image?", "Count the {names} in the picture."))
EXISTS = Wordings(
    ("Is there {name}?",) * 2 + ("Is there {name} in the picture?", "Do you see {name}?",
                                 "Can you see {name} in the image?", "Is {name} there?", "Is {name} in the picture?",
                                 "Can you find {name}?", "Does the picture show {name}?", "Is {name} shown here?"),
    ("Can you see {name}?", "Is there {name} in the image?"))
EACH = Wordings(
    ("Which of these are there: {names}?", "Which of these do you see: {names}?",
     "Which of these are in the picture: {names}?", "Which of these can you see: {names}?", "Are these there: {names}?",
     "Do you see these: {names}?", "Look for these: {names}.", "Which are there: {names}?"),
    ("Which of these are in the image: {names}?", "Which do you see: {names}?"))
HALVES = {
    ("left", "right"): Wordings(
        ("Left or right: {names}?", "Which are left, which right: {names}?", "On the left or on the right: {names}?",
         "In the left half or in the right half: {names}?", "Are these left or right: {names}?",
         "Left or right of the middle: {names}?", "Say left or right: {names}.",
         "On which side, left or right: {names}?"),
        ("Which are on the left, which on the right: {names}?", "In the left or in the right half: {names}?")),
    ("above", "below"): Wordings(
        ("Top or bottom: {names}?", "Which are at the top, which at the bottom: {names}?",
         "At the top or at the bottom: {names}?", "In the top half or in the bottom half: {names}?",
         "Are these top or bottom: {names}?", "Above or below the middle: {names}?", "Say top or bottom: {names}.",
         "In which half, top or bottom: {names}?"),
        ("Which are top, which bottom: {names}?", "In the top or in the bottom half: {names}?"))}
HALF = {"left": "left", "right": "right", "above": "top", "below": "bottom"}
COLOUR = Wordings(
    ("What colour is {phrase}?", "What color is {phrase}?", "Which colour is {phrase}?", "Which color is {phrase}?",
     "Name the colour of {phrase}.", "What is the colour of {phrase}?", "Tell me the colour of {phrase}.",
     "What colour does {phrase} have?"),
    ("What is the color of {phrase}?", "Tell me the color of {phrase}."))
RELATIONS = {
    "left": Wordings(("to the left of", "left of", "on the left of", "further left than", "on the left side of",
                      "more to the left than"), ("further to the left than", "to the left side of")),
    "right": Wordings(("to the right of", "right of", "on the right of", "further right than", "on the right side of",
                       "more to the right than"), ("further to the right than", "to the right side of")),
    "above": Wordings(("above", "higher than", "higher up than", "over", "somewhere above", "placed higher than"),
                      ("further up than", "placed above")),
    "below": Wordings(("below", "lower than", "lower down than", "under", "somewhere below", "placed lower than"),
                      ("further down than", "placed below"))}
IS_IT = Wordings(
    ("Is {a} {relation} {b}?",) * 3 + ("In the picture, is {a} {relation} {b}?", "Is it true that {a} is {relation} {b}?",
                                       "Do you see {a} {relation} {b}?", "Look at {a}: is it {relation} {b}?",
                                       "Tell me if {a} is {relation} {b}.", "{a} is {relation} {b}: is this right?"),
    ("In the image, is {a} {relation} {b}?", "Is it right that {a} is {relation} {b}?"))
SIZE = Wordings(
    ("Which is bigger, {a} or {b}?", "What is bigger, {a} or {b}?", "Which is larger, {a} or {b}?",
     "What is larger, {a} or {b}?", "Which one is bigger: {a} or {b}?", "Which of the two is bigger, {a} or {b}?",
     "Look at {a} and {b}: which is larger?", "Tell me which is bigger, {a} or {b}."),
    ("Which one is larger: {a} or {b}?", "Which of the two is larger, {a} or {b}?"))
BESIDE = Wordings(
    ("What is {side} {phrase}?",) * 2 + ("What do you see {side} {phrase}?", "Which thing is {side} {phrase}?",
                                         "Name the thing {side} {phrase}.", "Tell me what is {side} {phrase}.",
                                         "What can you see {side} {phrase}?", "What is there {side} {phrase}?",
                                         "Say what is {side} {phrase}."),
    ("Tell me which thing is {side} {phrase}.", "Name what is {side} {phrase}."))
SIDE_OF = {"left": ("to the left of", "left of", "on the left of"), "right": ("to the right of", "right of",
                                                                              "on the right of"),
           "above": ("above", "over"), "below": ("below", "under")}
BESIDE_IT = Wordings(
    ("What is {side}?",) * 2 + ("What do you see {side}?", "Which thing is {side}?", "Name the thing {side}.",
                                "Tell me what is {side}.", "What can you see {side}?", "What is there {side}?",
                                "Say what is {side}."),
    ("Tell me which thing is {side}.", "Name what is {side}."))
SIDE_OF_IT = {"left": "to its left", "right": "to its right", "above": "above it", "below": "below it"}
EXTREME = Wordings(
    ("What is the {extreme} thing?",) * 2 + ("Which thing is the {extreme}?", "Name the {extreme} thing.",
                                             "Tell me the {extreme} thing.", "Which is the {extreme} thing?",
                                             "Which of the things is the {extreme}?", "Say what the {extreme} thing is.",
                                             "Which one is the {extreme}?"),
    ("Tell me what the {extreme} thing is.", "Which one is the {extreme} thing?"))
EXTREMES = {"left": ("leftmost",), "right": ("rightmost",), "above": ("topmost", "highest"), "below": ("lowest",)}
BACKGROUND = Wordings(
    ("What is the background?", "What is in the background?", "What is behind the things?", "Describe the background.",
     "Name the background.", "What do you see in the background?", "Which background is there?",
     "Say what is behind the things."),
    ("Tell me what the background is.", "What do you see behind the things?"))
READ = Wordings(
    ("What is written?", "What is written here?", "What does it say?", "Read it.", "Read the text.", "What do you read?",
     "What text is shown?", "Tell me what is written.", "Say what you read."),
    ("What is written in the picture?", "Say what is written."))
READ_NUMBER = Wordings(
    ("What number is written?", "Which number is written?", "Read the number.", "What number is it?",
     "What number do you see?", "What number is shown?", "Tell me the number.", "What is the number?"),
    ("What number is written here?", "Which number do you see?"))
CHAT = (                                                    # small talk, without a picture: (wordings, answer)
    (Wordings(("Hello.", "Hello!", "Hi.", "Hi!", "Hello", "Hi", "Good morning.", "Hey.", "Hello there."),
              ("Hi there.", "Good morning!")), "Hello! Show me a picture."),
    (Wordings(("Who are you?", "What are you?", "Tell me who you are.", "Say who you are.", "What is your name?",
               "Are you there?"), ("Tell me what you are.", "Tell me your name.")), "I am a small CogVLM."),
    (Wordings(("What can you do?", "What do you do?", "Tell me what you can do.", "How can you help me?", "Help.",
               "Help me.", "What can I ask?"), ("Say what you can do.", "What can I ask you?")),
     "I say what is in a picture, and where."),
    (Wordings(("Thanks.", "Thanks!", "Thank you.", "Thank you!", "Thanks", "Good.", "Well done.", "Very good."),
              ("Thank you", "Very good!")), "You are welcome."),
    (Wordings(("Bye.", "Goodbye.", "Bye!", "Goodbye!", "Bye", "Good night.", "See you."), ("Good night!", "See you!")),
     "Goodbye."),
    (Wordings(("How are you?", "Are you well?", "How do you do?", "Is all well?", "How is it?", "Do you feel well?"),
              ("How do you feel?", "Are you all well?")), "I am well."))


def with_article(name):
    """a dog, an apple, something unknown"""
    if name == "unknown":
        return "something unknown"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def capital(text):
    """The text with a capital as its first letter"""
    return text[:1].upper() + text[1:]


def sentence(text):
    return f"{capital(text)}."


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
