"""`tinycogvlm train pair`: a small CLIP for `match`, trained on drawn scenes and short texts about them.

Radford et al. 2021 (arXiv 2103.00020) in miniature: two towers (relatives/clip.py), and in each batch every picture has
to find its text and every text its picture. CLIP saw 400 million pairs. For the few here a picture says too little about
itself by one text, so the tower for pictures also learns to say of each patch what the bundled CogVLM's tower says of it,
by a matrix that is thrown away afterwards (hints: Romero et al. 2015, arXiv 1412.6550). The result is a folder as Hugging
Face ships a CLIP. What is looked at and what is said come from `shown` and `told` alone: another world is another pair
of these two.
"""
import json
from collections import Counter
from dataclasses import replace
from functools import cache, partial
from itertools import count

import numpy as np

from ... import loading
from ...inputs import image
from ...inputs.texts import END, START, ClipTexts
from ...model.vit import vit
from ...nn import ops
from ...nn.tree import Gradients, Params
from ...relatives import clip
from ...relatives.fields import Fields
from ...storage.atomic import Together
from ...storage.safetensors_file import write_tensors
from ...world import colours
from ...world.scenes import BACKGROUNDS, SIDE, Dice, scene
from ...world.sketches import COLOUR, FEW, NAMES, sketch
from ...world.wordings import listed, plural, with_article
from ..loop.loop import Recipe, fit, steps_asked
from ..loop.process import say
from ..loop.run import Run
from .initial import by_inputs
from .stages import WATCHED

SAMPLES, BATCH, PEAK, MUON, EMA = 192_000, 128, 1e-3, 0.01, 0.998
VOCABULARY, CONTEXT = 1024, 32                              # tokens at most; of a text at most
VISION = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
          "image_size": SIDE, "patch_size": 14}
TEXT = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 3,
        "max_position_embeddings": CONTEXT}
EMBEDDING, TEMPERATURE, HINT = 96, 0.07, 1.0
BEFORE = ("", "", "a photo of ", "a picture of ", "a drawing of ")
NUMBERS = {2: "two", 3: "three"}
ASKED = 100                                                 # pictures of one thing, for the share that is named right
GROUNDS = (*BACKGROUNDS, *colours.NAMES)                    # that a text speaks of
SKETCHED = replace(COLOUR, restyled=0, unknown=0)           # by all hands in colour; what has no name, no text says


# --------------------------------------------------------------------------------------------------- what is learned

def shown(split, number, things=(1, 3), share=1.0):
    """The scene of this number at this share of the run: it has a `picture`, `things` with names, a `background`

    One in four is plain; the others are sketches in colour, of a few hands at first and of all later.
    """
    if number % 4 == 3:
        return scene(split, number, things)
    return sketch(split, number, things, manner=FEW if share < 0.12 else SKETCHED)


def told(s, dice):
    """A short text about a scene, such as "a photo of two dogs and a red star against a sky background"."""
    names = Counter(thing.name for thing in s.things)
    things = listed([with_article(name) if n == 1 else f"{NUMBERS[n]} {plural(name)}" for name, n in names.items()])
    if len(names) == len(s.things) == 1 and dice.below(4) == 0:
        return s.things[0].name                             # as one types it in haste
    ground = f" against {with_article(s.background)} background" if s.background in GROUNDS and dice.below(3) == 0 else ""
    return dice.choice(BEFORE) + things + ground


def pairs(first, many, share):
    """`many` scenes and their texts, from the scene `first` on, no two of which hold the same things; see `shown`"""
    found = {}
    for number in count(first):
        s = shown("train", number, share=share)
        found.setdefault(tuple(sorted(thing.name for thing in s.things)), (s, told(s, Dice("pair", number))))
        if len(found) == many:
            return list(found.values())


def data(folder, steps, parts, step):
    """Step `step` of `steps`: up to `parts` times (pixels, ids, hints); each part is a contrast of its own"""
    tokenizer, each, made = ClipTexts(folder, CONTEXT, VOCABULARY), BATCH // parts, []
    for part in range(parts):
        some = pairs((step * BATCH + part * each) * 2, each, step / steps)              # twice as many to choose from
        pixels = np.stack([image.pixels(s.picture, SIDE) for s, _ in some])
        made.append((pixels, tokenizer.batch([text for _, text in some]), hints(pixels)))
    return made


@cache
def teacher():
    return loading.load()


def hints(pixels):
    """What the bundled tower says of each patch, with mean 0 and variance 1      (N, 3, S, S) -> (N, P, C)"""
    model = teacher()
    x, _ = vit(pixels, Params(model.leaves).model.vision, model.config.vision, keep=None)
    x = x - x.mean(-1, keepdims=True)
    return x / x.std(-1, keepdims=True)


# --------------------------------------------------------------------------------------------------------- tokenizer

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"       # as OpenAI's


def tokenizer_json():
    """The text of a tokenizer.json: CLIP's byte pair encoding, whose merges are learned from the world's texts

    As in CLIP the vocabulary is all bytes, all bytes at the end of a word, what is merged, and the two ends, so that
    every text can be written.
    """
    from tokenizers import Tokenizer, models, trainers
    rules = {"normalizer": {"type": "Sequence", "normalizers": [
                 {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                 {"type": "Lowercase"}]},
             "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                 {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": True},
                 {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
             "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}}
    empty = json.loads(Tokenizer(models.BPE(end_of_word_suffix="</w>")).to_str())
    learner = Tokenizer.from_str(json.dumps({**empty, **rules}))
    letters = byte_letters()
    ends_of_words = [f"{letter}</w>" for letter in letters]
    learner.train_from_iterator(corpus(), trainers.BpeTrainer(      # named, the ends of words have an order: ties need one
        vocab_size=VOCABULARY, show_progress=False, end_of_word_suffix="</w>", min_frequency=2,
        special_tokens=ends_of_words))
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(pair if isinstance(pair, list) else pair.split(" ")) for pair in learned["merges"]]
    words = [*letters, *ends_of_words, *("".join(pair) for pair in merges)]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*words, START, END]))}
    added = [{"id": vocabulary[end], "content": end, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": True, "special": True} for end in (START, END)]
    ends = {"type": "RobertaProcessing", "sep": [END, vocabulary[END]], "cls": [START, vocabulary[START]],
            "trim_offsets": False, "add_prefix_space": False}
    model = {**learned, "vocab": vocabulary, "merges": [list(pair) for pair in merges], "unk_token": END,
             "continuing_subword_prefix": "", "end_of_word_suffix": "</w>"}
    return json.dumps({**empty, **rules, "added_tokens": added, "post_processor": ends, "model": model}, indent=1) + "\n"


def byte_letters():
    """The 256 letters that stand for bytes, in GPT-2's order"""
    from tokenizers import pre_tokenizers
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def corpus():
    """Texts with every name, number and background of the world"""
    yield from (f"{with_article(name)} {plural(name)}" for name in NAMES for _ in range(4))
    yield from (f"against {with_article(name)} background" for name in GROUNDS for _ in range(4))
    yield from (told(shown("train", number), Dice("pair", number)) for number in range(500))


# -------------------------------------------------------------------------------------------------------- the towers

def fields(vocabulary):
    """config.json"""
    return {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": EMBEDDING,
            "logit_scale_init_value": round(float(np.log(1 / TEMPERATURE)), 4), "vision_config": VISION,
            "text_config": {**TEXT, "vocab_size": vocabulary, "bos_token_id": vocabulary - 2,
                            "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}}


def start(config, seed):
    """{name: array} before training"""
    hint = {"hint.weight": (teacher().config.vision.hidden_size, VISION["hidden_size"])}
    leaves = by_inputs(clip.shapes(config) | hint, np.random.default_rng(seed))
    return leaves | {"logit_scale": np.asarray(np.log(1 / TEMPERATURE), np.float32)}


def loss(config, leaves, part):
    """CLIP's loss, and HINT times the mean squared distance of the patches from the hints"""
    pixels, ids, wanted = part
    distance = []

    def see(pixels, p, config, keep):
        """clip.image_features, with an eye on the patches"""
        tokens, pull_tokens = clip.vit(pixels, p, config, keep)
        said, pull_said = ops.linear(tokens[:, 1:], p.hint.weight)
        y, pull_pool = clip.pooled(tokens, p, config)
        off = said - wanted
        distance.append((off * off).mean())

        def pull(dy, g):
            dtokens = pull_pool(dy, g)
            dtokens[:, 1:] += pull_said(2 * HINT / off.size * off, g.hint)
            return pull_tokens(dtokens, g)
        return y, pull
    y, pull_loss = clip.loss(pixels, ids, Params(leaves), config, see=see)

    def pull():
        g = Gradients(leaves)
        pull_loss(1.0, g)
        return g.leaves
    return y + HINT * distance[0], len(ids), pull, {"contrast": y, "hints": distance[0]}


def named_right(model, split="check", count=ASKED):
    """Of pictures with one thing, the share whose own name is the likeliest of all names of the world: in plain scenes,
    and as in WATCHED, where things are drawn by hands that training never shows

    split: "check", or "style" for other such hands (and plain scenes of "test").
    """
    texts = model.text_features([f"a photo of {with_article(name)}" for name in NAMES])
    found = {}
    for what, manner in {"plain": None, **WATCHED}.items():
        scenes = [sketch(split, number, (1, 1), manner=manner, sizes=(35, 65)) if manner else
                  scene("test" if split == "style" else split, number, (1, 1)) for number in range(count)]
        best = (np.concatenate([model.image_features([s.picture]) for s in scenes]) @ texts.T).argmax(1)
        found[what] = float(np.mean([NAMES[i] == s.things[0].name for i, s in zip(best, scenes)]))
    return found


# ------------------------------------------------------------------------------------------------------- the command

def train(arguments):
    """Train the pair and write its folder, OUT/weights."""
    with Run(arguments.out, "pair") as run:
        if not arguments.resume:
            run.refuse_begun()
        written = run.folder / "tokenizer.json"
        if not written.exists():
            with Together() as files:
                files.write(written, tokenizer_json())
        vocabulary = len(json.loads(written.read_text(encoding="utf-8"))["model"]["vocab"])
        config, workers = clip.hugging_face(Fields(fields(vocabulary))), arguments.workers
        leaves, of = start(config, arguments.seed), partial(data, str(run.folder))
        steps = steps_asked(run, arguments, SAMPLES, BATCH, leaves, partial(of, SAMPLES // BATCH, workers),
                            partial(loss, config), workers)
        recipe = Recipe(steps, BATCH, PEAK, MUON, ema=EMA, settings={"seed": arguments.seed, "workers": workers})
        after = fit(run, leaves, partial(of, steps, workers), partial(loss, config), recipe, workers=workers,
                    resume=arguments.resume, watch=lambda leaves: named_right(clip.CLIP(config, leaves, run.folder)))
        write(run.folder / "weights", written, vocabulary, after)
        say(f"pair: {recipe.steps * BATCH} pairs learned; the result is in {run.folder / 'weights'}")


def write(folder, tokenizer, vocabulary, leaves):
    """A folder as Hugging Face ships a CLIP, in float16"""
    folder.mkdir(exist_ok=True)
    preprocessor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE}, "resample": 3,
                    "crop_size": {"height": SIDE, "width": SIDE}, "image_mean": image.CLIP_MEAN.tolist(),
                    "image_std": image.CLIP_STD.tolist()}
    with Together() as files:
        files.write(folder / "config.json", json.dumps(fields(vocabulary), indent=1) + "\n")
        files.write(folder / "preprocessor_config.json", json.dumps(preprocessor, indent=1) + "\n")
        files.write(folder / "tokenizer.json", tokenizer.read_text(encoding="utf-8"))
        with files.replacing(folder / "model.safetensors") as file:
            write_tensors(file, {name: array for name, array in leaves.items() if not name.startswith("hint.")}, "F16")
