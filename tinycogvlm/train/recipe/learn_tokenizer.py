"""Learn the bundled model's tokenizer from conversations:      python -m tinycogvlm.train.recipe.learn_tokenizer OUT

Byte-level BPE: every text encodes to ids and back unchanged. Every word, every digit and every punctuation mark is one
token, and so are [[ and ]]. A plural is the word and its ending, so that what is known about a dog holds for dogs.
Padding is 0, bos 1, eos 2. The file is the same every time, bit for bit.
"""
import sys
from pathlib import Path

from ...errors import UserError
from ...inputs import prompt
from ...storage.atomic import write
from ...world import shapes
from ...world.colours import NAMES as COLOURS
from ...world.conversations import conversation
from ...world.grounds import GROUNDS
from ...world.scenes import KINDS, Dice, scene
from ...world.sketches import NAMES, UNKNOWN
from ...world.texts import text_conversation
from ...world.wordings import DO_NOT_KNOW, plural, sentence, with_article
from ..loop.process import ended_in_a_sentence

VOCABULARY = 1500                                           # at most
CONVERSATIONS = 2000                                        # about pictures, and as many without one
PIECES = (r"Question:| Answer:"                             # the template's words
          rf"| ?(?:{'|'.join(KINDS + shapes.NAMES)})(?=e?s(?!\p{{L}}))"        # "dog" of "dogs"
          r"| ?\p{L}+|\p{N}| ?\[\[|\]\]| ?[^\s\p{L}\p{N}]|\s+")


def train_tokenizer(path):
    """Write tokenizer.json to `path`, a file or a folder. Raises UserError if it cannot be written."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.parent.is_dir():                            # noticed before the work, not after
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(corpus(), trainer)
    write(path, tokenizer.to_str(pretty=True) + "\n")


def corpus():
    """Texts with every word of the world: each name, alone and in the plural, then conversations"""
    for name in (*NAMES, UNKNOWN):
        yield f"{with_article(name)}, {plural(name)}\n"
    for name in (*KINDS, *COLOURS, *GROUNDS):                # as one-word answers
        yield f"{prompt.text('chat', '')} {sentence(name)} {DO_NOT_KNOW} The number 471. The word {name}.\n"
    for number in range(CONVERSATIONS):
        for turns in (conversation(scene("train", number), Dice("words", number), 6),
                      text_conversation(Dice("texts", number))):
            *history, (question, answer) = turns
            yield f"{prompt.text('chat', question, history)} {answer}\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with ended_in_a_sentence():
        train_tokenizer(sys.argv[1])
