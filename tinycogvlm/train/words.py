"""Questions about a scene with their answers, the tokenizer for them, and conversations as rows to learn from."""
import numpy as np

from .. import grounding, prompt
from .world import COLOURS, NAMES, SHAPES, SIDE, Dice, scene

WHAT = ("What is in the picture?", "What do you see?", "What is this?", "Describe the image.", "Describe the picture.")
WHERE = ("Where is {phrase}?", "Where is {phrase}?", "Find {phrase}.", prompt.BOX_OF_PHRASE)
IS_THERE = ("Is there {phrase}?", "Is there {phrase} in the picture?", "Do you see {phrase}?")
COLOUR = ("What colour is it?", "What color is it?", "What colour is the {shape}?")
SHAPE = ("What shape is it?", "What shape is the {colour} thing?")
LONGEST_ANSWER = 48                                         # tokens, for generation
VOCABULARY = 512


def a(name):
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def rounded(box):
    """A box in thousandths to multiples of 20: at SIDE pixels the third digit would be noise to learn."""
    return tuple(min(980, (2 * c * 1000 + 20 * SIDE) // (40 * SIDE) * 20) for c in box)


def absent(scene, dice):
    """The name of a thing that is not there: a quarter shares the colour with what is, a quarter the shape."""
    colour, shape = dice.choice(((True, False), (False, True), (False, False), (False, False)))
    return dice.choice([name for name in NAMES if (scene.colour in name, scene.shape in name) == (colour, shape)])


# Each kind of question: (scene, dice) -> (question, answer)

def what(scene, dice):
    return dice.choice(WHAT), f"{a(scene.name).capitalize()}."


def where(scene, dice):
    name = dice.choice((scene.name, scene.name, scene.name, scene.shape))
    return dice.choice(WHERE).format(phrase=_article(name, dice)), grounding.format([rounded(scene.box)])


def where_absent(scene, dice):
    name = absent(scene, dice)
    if scene.shape not in name and dice.below(4) == 0:
        name = name.split()[1]
    return dice.choice(WHERE).format(phrase=_article(name, dice)), f"There is no {name}."


def is_there(scene, dice):
    yes = dice.below(2)
    question = dice.choice(IS_THERE).format(phrase=a(scene.name if yes else absent(scene, dice)))
    return question, "Yes." if yes else "No."


def colour(scene, dice):
    return dice.choice(COLOUR).format(shape=scene.shape), f"{scene.colour.capitalize()}."


def shape(scene, dice):
    return dice.choice(SHAPE).format(colour=scene.colour), f"{a(scene.shape).capitalize()}."


def what_and_where(scene, dice):
    return prompt.CAPTION_WITH_BOXES, f"{a(scene.name).capitalize()} {grounding.format([rounded(scene.box)])}."


KINDS = (what, where, where_absent, is_there, colour, shape, what_and_where)
OFTEN = (*KINDS, what, where, where, where_absent, where_absent)      # what to draw from: some kinds more than others


def _article(name, dice):
    return dice.choice((f"the {name}", f"the {name}", a(name), name))


def conversation(scene, dice, turns):
    """`turns` questions of different kinds with their answers; any kind may come first."""
    kinds = []
    while len(kinds) < turns:
        kind = dice.choice(OFTEN)
        if kind not in kinds:
            kinds.append(kind)
    return [kind(scene, dice) for kind in kinds]


def train_tokenizer(path):
    """Byte-level BPE, learned from the questions and answers of 3000 scenes; written to `path`.

    Digits come one by one, and a thing's name is one piece: " red star" becomes one token. Of two tokens the model
    compared only the shape with the picture, and gave a red star's box for a green star too.

    Every text encodes to ids and back unchanged. Ids: padding 0, bos 1, eos 2. The same file, bit for bit, every time.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    names = f"(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})"
    pieces = Regex(rf" ?{names}(?!\p{{L}})| ?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pieces, "isolated"),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    texts = []
    for number in range(3000):
        *history, (question, answer) = conversation(scene("train", number), Dice("words", number), 4)
        texts.append(f"{prompt.text('chat', question, history)} {answer}\n")
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))


def row(config, tokenizer, picture, turns):
    """One row of prompt.Inputs holding a conversation, and its labels (1, T): the answers and an eos after each.

    The text is the chat template's own, so a later turn sees the earlier ones as history. Where an answer ends the text
    goes on with a line feed, but the label is eos: the model is to stop there, whoever writes the next question.
    """
    head = prompt.build(config, tokenizer, "", [picture])
    ids, labels = list(head.ids[0]), [-100] * head.ids.shape[1]
    for i, (question, answer) in enumerate(turns):
        asked, said = tokenizer.encode(prompt.text("chat", question)), tokenizer.encode(f" {answer}")
        ids += asked + said + (tokenizer.encode("\n") if i < len(turns) - 1 else [config.eos_token_id])
        labels += [-100] * len(asked) + said + [config.eos_token_id]
    ids, labels = np.array([ids]), np.array([labels])
    types = np.pad(head.types, ((0, 0), (0, ids.shape[1] - head.ids.shape[1])))
    return prompt.Inputs(ids, types, np.ones_like(ids), head.pixels), labels
