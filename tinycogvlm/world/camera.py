"""What happens to a picture on its way: light, contrast, blur, noise, grey, JPEG. (side, side, 3) uint8 -> the same"""
import io

import numpy as np


def taken(picture, dice, much):
    """A picture as it arrives; much: 0 ... 100, how often something happens to it."""
    pixels = picture.astype(np.int32)
    if dice.below(200) < much:
        gain, lift = dice.between(700, 1250), dice.between(-25, 25)
        pixels = (pixels - 128) * gain // 1000 + 128 + lift
    if dice.below(600) < much:
        pixels = blurred(np.clip(pixels, 0, 255))
    if dice.below(250) < much:
        noise = dice.bytes(*picture.shape).astype(np.int32) - 128
        pixels = pixels + noise * dice.between(4, 36) // 128
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    if dice.below(600) < much:
        pixels = compressed(pixels, dice.between(25, 85))
    return pixels


def blurred(pixels):
    """The mean of 3 x 3 pixels, edges repeated"""
    for axis in (0, 1):
        padded = np.pad(pixels, [(1, 1) if a == axis else (0, 0) for a in range(3)], "edge")
        parts = [np.take(padded, range(i, i + pixels.shape[axis]), axis) for i in range(3)]
        pixels = (parts[0] + parts[1] + parts[2]) // 3
    return pixels


def greyed(picture):
    """A black-and-white photograph of the picture"""
    grey = picture.astype(np.int32) @ np.array([299, 587, 114]) // 1000
    return np.repeat(grey[..., None], 3, -1).astype(np.uint8)


def compressed(picture, quality):
    """A picture after JPEG"""
    from PIL import Image
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    with Image.open(file) as again:
        return np.asarray(again.convert("RGB"))


def crossed(picture, dice, count):
    """A picture with `count` thin lines of any colour drawn across it"""
    from PIL import Image, ImageDraw
    from .restyle import any_colour
    image, side = Image.fromarray(picture), len(picture)
    pen = ImageDraw.Draw(image)
    for _ in range(count):
        ends = [(0, dice.below(side)), (side // 2, dice.below(side)), (side, dice.below(side))]
        pen.line(ends, fill=any_colour(dice), width=1 + side // 112 * dice.below(2))
    return np.asarray(image)
