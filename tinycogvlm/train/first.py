"""The first weights, from nothing:      python -m tinycogvlm.train.first --out runs/first

1. The tokenizer, from the questions and answers themselves.
2. The vision tower alone: every patch learns to say what covers it and where that thing lies. A tower trained only
   through the language model's words barely starts.
3. The rest of the model, on conversations about pictures, the tower frozen: what the untrained rest would send back
   into it destroys in minutes what it has learned (per patch, shapes named right fell from 94 % to 38 %).
4. All together, at a lower rate.
A run that was interrupted goes on where its last checkpoint is. At the end OUT/weights is a Hugging Face folder.
"""
import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import params, prompt
from ..config import Config, VisionConfig
from ..decoder import Rotary
from ..model import CogVLM
from ..tokenizer import Tokenizer
from . import evaluate, words
from .loop import fit
from .tower import HEADS, patch_loss
from .world import SIDE, Dice, scene


@dataclass(frozen=True)
class Recipe:
    """Everything that makes one run differ from another."""
    config: Config = Config(vocab_size=words.VOCABULARY, hidden_size=128, intermediate_size=344, num_hidden_layers=3,
                            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024,
                            vision=VisionConfig(hidden_size=128, num_hidden_layers=4, num_heads=4,
                                                intermediate_size=512, patch_size=14, image_size=SIDE))
    tower_steps: int = 2500             # stage 2, and pictures a step
    tower_batch: int = 32
    frozen_steps: int = 1400            # stage 3
    joint_steps: int = 250              # stage 4
    batch: int = 16                     # pictures a step, in both
    turns: int = 4                      # questions about each picture
    rate: float = 1e-3                  # the highest learning rate of stages 2 and 3
    joint_rate: float = 2e-4            # and of stage 4
    seed: int = 0                       # of the initial weights


def initial(recipe):
    """{name: array} before training: normal with std 0.05, biases 0, norms 1, positions as sines and cosines.

    Patches carry no place unless made to, since all image tokens share one position in the language model: a small
    random position table would be drowned by what the patches show.
    """
    config, random, leaves = recipe.config, np.random.default_rng(recipe.seed), {}
    for name, shape in config.shapes().items():
        if name.endswith("inv_freq"):                       # as float16 holds it, since the file will
            leaves[name] = Rotary.from_base(config.rope_base, config.head_size).inv_freq.astype(np.float16)
        elif "norm" in name and name.endswith("weight"):
            leaves[name] = np.ones(shape)
        elif name.endswith("bias"):
            leaves[name] = np.zeros(shape)
        else:
            leaves[name] = 0.05 * random.standard_normal(shape)
    leaves["model.vision.patch_embedding.position_embedding.weight"][1:] = sines(config.vision)
    return {name: array.astype(np.float32) for name, array in leaves.items()}


def sines(vision):
    """sin and cos of x and y, from one turn in 6 patches to hardly any: (grid^2, W). After Vaswani et al. 2017"""
    y, x = np.mgrid[:vision.grid, :vision.grid].reshape(2, -1, 1)
    frequency = 100.0 ** -np.linspace(0, 1, vision.hidden_size // 4)
    return np.concatenate([f(place * frequency) for place in (x, y) for f in (np.sin, np.cos)], 1)


FROZEN = ("model.vision.patch_embedding.*", "model.vision.transformer.*")      # the tower, in stage 3


def model_of(leaves, recipe, tokenizer):
    inv_freq = leaves["model.layers.0.self_attn.rotary_emb.inv_freq"]
    return CogVLM(recipe.config, leaves, tokenizer, Rotary(inv_freq))


def train(out, recipe=Recipe()):
    """All stages, each from its checkpoint in the folder `out` if it has one -> the model"""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    words.train_tokenizer(out / "tokenizer.json")
    tokenizer, config = Tokenizer.load(out / "tokenizer.json", recipe.config), recipe.config
    leaves = initial(recipe)
    heads = np.random.default_rng(recipe.seed + 1)
    tower = leaves | {name: 0.05 * heads.standard_normal((rows, config.vision.hidden_size)).astype(np.float32)
                      for name, rows in HEADS.items()}

    def patches(split, step):
        scenes = [scene(split, step * recipe.tower_batch + i) for i in range(recipe.tower_batch)]
        return patch_loss(tower, config.vision, scenes)
    fit("tower", out, tower, lambda step: patches("train", step)[:2], recipe.tower_steps, recipe.rate,
        lambda: {"patches": round(float(np.mean([patches("check", step)[2] for step in range(4)])), 4)})

    leaves |= {name: array for name, array in tower.items() if name not in HEADS}
    model = model_of(leaves, recipe, tokenizer)
    seen = (recipe.tower_steps + 1) * recipe.tower_batch        # scenes so far: none comes twice

    def talk(step, frozen=()):
        numbers = range(seen + step * recipe.batch, seen + (step + 1) * recipe.batch)
        return model.loss(*batch(config, tokenizer, numbers, recipe.turns), frozen)
    watch = lambda: evaluate.measure(model, "check", 100)
    fit("frozen", out, leaves, lambda step: talk(step, FROZEN), recipe.frozen_steps, recipe.rate, watch)
    fit("joint", out, leaves, lambda step: talk(recipe.frozen_steps + step), recipe.joint_steps, recipe.joint_rate, watch)
    return model


def batch(config, tokenizer, numbers, turns):
    """Conversations of `turns` questions about these scenes: Inputs and labels, padded on the right."""
    rows = []
    for number in numbers:
        s = scene("train", number)
        rows.append(words.row(config, tokenizer, s.picture, words.conversation(s, Dice("words", number), turns)))
    inputs = prompt.pad([row for row, _ in rows], config.pad_token_id, side="right")
    longest = inputs.ids.shape[1]
    labels = [np.pad(row, ((0, 0), (0, longest - row.shape[1])), constant_values=-100) for _, row in rows]
    return inputs, np.concatenate(labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder of the run: log, checkpoints, and at the end weights/")
    out = Path(parser.parse_args().out)
    model = train(out)
    params.save(out / "weights", model.leaves, model.config, "F16")
    shutil.copy(out / "tokenizer.json", out / "weights")
    print(f"{out / 'weights'} is ready; measure it: python -m tinycogvlm.train.evaluate {out / 'weights'}")


if __name__ == "__main__":
    main()
