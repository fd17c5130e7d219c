"""README's table of systems says what the results say that come with the weights."""
import json
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from tinycogvlm.loading import default_weights
from tinycogvlm.train.miniatures.__main__ import MINIATURES

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").partition("| system | its claim")[2]


def rows(name):
    return json.loads((default_weights() / f"{name}.json").read_text(encoding="utf-8"))["rows"]


def percent(name, run, measure):
    """The mean over the seeds of a miniature"""
    return f"{100 * fmean(rows(f'miniatures/{name}')[run]['measured'][measure]):.0f} %"


def loss(name, run):
    return f"{rows(f'comparisons/{name}')[run]['seen']['loss'][0]:.2f}".lstrip("0")


def right(run, measure):
    """The mean over the seeds of a bridge"""
    return f"{100 * rows('comparisons/bridges')[run]['seen'][measure][0]:.0f} %"


def box_loss(run):
    return f"{rows('comparisons/bridges')[run]['seen']['loss on box'][0]:.3f}".lstrip("0")


SAID = {
    "CLIP, SigLIP": lambda: f"it finds {percent('contrast', 'sigmoid-16', 'R@1')} of the captions, the softmax "
                            f"{percent('contrast', 'softmax-16', 'R@1')}",
    "EVA-02": lambda: f"{percent('positions', 'rotary', 'at 48')}, but the table keeps "
                      f"{percent('positions', 'learned table', 'at 48')}; if the angles are not rescaled, "
                      f"{percent('positions', 'rotary', 'at 48, angles not rescaled')}",
    "NFNet": lambda: f"at a rate of 0.2 every run diverges without it and names "
                     f"{percent('clipping', 'rate 0.2, clipped at 0.1', 'right')} with it",
    "LLaVA-1.5": lambda: f"captions right {right('mlp', 'caption')} beside {right('linear', 'caption')}",
    "InternVL": lambda: f"captions right {right('pixel-shuffle', 'caption')} beside {right('ldp-v2', 'caption')}",
    "Honeybee": lambda: f"boxes right {right('d-abstractor', 'box')} with the D-Abstractor, {right('perceiver', 'box')} "
                        f"with a Perceiver, {right('c-abstractor', 'box')} with the C-Abstractor",
    "MobileVLM V2": lambda: f"loss on boxes {box_loss('ldp-v2')} beside {box_loss('average-pool')} of an average;",
    "BLIP-2": lambda: f"4 queries read {percent('queries', '4 queries', 'digits right')} of the digits, 32 read "
                      f"{percent('queries', '32 queries', 'digits right')}; the mask shows: search finds "
                      f"{percent('masks', 'apart', 'apart')} with it, {percent('masks', 'leaky', 'apart')} without",
    "Flamingo": lambda: f"two examples make {percent('shots', 'pictures, ==', '2 shots')} right, "
                        f"{percent('shots', 'pictures, <=', '2 shots')} if all pictures before are seen",
    "CogVLM": lambda: f"loss {loss('parameters', 'full')} beside {loss('parameters', 'p-tuning')} of p-tuning, texts bit "
                      f"for bit; LoRA has {loss('parameters', 'lora')} and forgets",
    "CLAP": lambda: f"{percent('sounds', 'words', 'never together')}, where chance has {100 / 27:.0f} %",
    "HuBERT": lambda: f"purity {percent('speech', 'first', 'purity')} beside {percent('speech', 'mfcc', 'purity')} of "
                      f"MFCCs, {percent('speech', 'second', 'purity')} in the second round; MFCCs tell "
                      f"{percent('speech', 'mfcc', 'digits by features')} of the digits, it "
                      f"{percent('speech', 'first', 'digits by features')}",
    "a CogVLM that hears (our own)": lambda: f"sound beside a picture {percent('hearing', 'sound', 'beside a picture')} "
                                             f"with it, {percent('hearing', 'vision', 'beside a picture')} through the "
                                             "visual expert",
}


MINUTES = {"CLIP, SigLIP": "contrast", "EVA-02": "positions", "NFNet": "clipping", "BLIP-2": ("queries", "masks"),
           "Flamingo": "shots", "CLAP": "sounds", "HuBERT": "speech", "a CogVLM that hears (our own)": "hearing"}
RUNS_OF = {"LLaVA-1.5": ("mlp", "linear"), "InternVL": ("pixel-shuffle", "ldp-v2"), "MobileVLM V2": ("ldp-v2", "average-pool"),
           "Honeybee": ("d-abstractor", "perceiver", "c-abstractor")}


def minutes(name, runs=None):
    """Of a seed's runs, as recorded: a mean over the seeds, and its deviation, or the mean alone"""
    found = rows(name)
    return sum(np.ravel(row["seconds"])[0] for run, row in found.items() if runs is None or run in runs) / 60


@pytest.mark.parametrize("name", MINIATURES)
def test_the_minutes_of_miniatures_are_those_of_their_results(name):
    assert MINIATURES[name].minutes == max(1, round(minutes(f"miniatures/{name}")))


@pytest.mark.parametrize("system", MINUTES | RUNS_OF)
def test_the_minutes_are_those_of_the_results(system):
    names = MINUTES.get(system, ())
    took = sum(minutes(f"miniatures/{name}") for name in ([names] if isinstance(names, str) else names)) or \
        minutes("comparisons/bridges", RUNS_OF.get(system))
    row = README.partition(f"\n| {system} | ")[2].partition("\n")[0]
    assert f" | {round(took)} | " in row


@pytest.mark.parametrize("system", SAID)
def test_what_is_said_was_measured(system):
    row = README.partition(f"\n| {system} | ")[2].partition("\n")[0]
    assert SAID[system]() in row


def test_every_run_of_nfnet_without_clipping_diverges_from_a_rate_of_0_2_on():
    """As the table says; "diverges" is no number that could be compared there."""
    measured = rows("miniatures/clipping")["rate 0.2, not clipped"]["measured"]["right"]
    assert measured == [None] * 3
