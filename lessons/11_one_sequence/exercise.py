"""11 One sequence. Fill in the bodies, then: tinycogvlm learn check 11"""
import numpy as np


def sequence(text, images, image_tokens, bos, pad):
    """Ids and types of bos, then the images, then the text     text (N,) -> ids (B, T), types (B, T)

    One row, B = 1. images says how many there are; each takes image_tokens places, which hold the id pad. types is 0
    for bos and text, 1 for the tokens of the first image, 2 for those of the second, and so on.
    """
    raise NotImplementedError


def merge(ids, types, table, images):
    """The vectors of the row: text from the table, image tokens from the images

    ids and types (B, T), table (V, D), images (N, P, D) -> (B, T, D)
    P is the number of places of an image, including those of boi and eoi. The rows of all images, in their order, fill
    the places with types > 0 in reading order.
    """
    raise NotImplementedError


def position_ids(types):
    """The position of each token, whole numbers from 0         types (B, T) -> (B, T)

    Each position is one higher than the one before, except for the patches of an image: they all share the position of
    the first of them. The first and the last token of an image, boi and eoi, are not patches.
    """
    raise NotImplementedError


def may_see(mask):
    """True where query t may see key s         mask (B, T) -> (B, T, T)

    mask is 0 at padding. A query sees the keys at its own place and before, but no padding.
    """
    raise NotImplementedError
