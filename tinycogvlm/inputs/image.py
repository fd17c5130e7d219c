"""From a picture in any format to the pixels that the vision transformer sees, exactly as the original does it."""
import io
import os
import stat
import warnings
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image

from ..errors import UserError
from ..nn.swap import op

CLIP_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)      # of R, G, B (OpenAI's CLIP)
CLIP_STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)

# What is opened, whatever a file is called. Not among them: EPS, for which Pillow starts another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "MPO", "ICO", "TGA")
LONGEST_METADATA = 1 << 24      # bytes before a JPEG's picture, for which Pillow takes quadratic time


class NotAPicture(UserError):
    """The file is in none of FORMATS."""


class PictureWarning(UserWarning):
    """A picture was read, but perhaps not as it was meant."""


def load(source, rescale=False):
    """The picture as a new Pillow RGB image; `source` is a path, an open binary file, a Pillow image or an array.

    An array is uint8: (height, width) grey, (height, width, 3) RGB or (height, width, 4) RGBA. The original calls
    Pillow's convert("RGB"), so this is what it sees:
    - EXIF orientation is NOT applied: a photograph that viewers turn upright stays as the sensor stored it;
    - alpha is dropped, not composited: a transparent pixel shows the colour stored under it;
    - grey of 16 or 32 bits and floating-point grey is clipped to 0..255, so that a 16-bit scan is almost white and
      floats from 0 to 1 are black. A PictureWarning says so. With `rescale` 16 bits are divided by 257, floats from 0
      to 1 multiplied by 255, and any other range is stretched to 0..255;
    - CMYK and the like are converted without colour profiles; of an animation the first frame counts.

    Raises UserError, naming the file, for what is not a picture in one of FORMATS, is cut short, has no pixels, or
    declares more than Pillow's limit of 89 million pixels (a small file that unpacks to gigabytes; the model sees at
    most 1344 x 1344).
    """
    name = _name(source)
    with decoding(source) as picture:
        if picture.mode[0] in "IF":
            picture, clipped = _deep_grey(picture, rescale)
        else:
            picture, clipped = picture.convert("RGB"), None
    if 0 in picture.size:
        raise UserError(f"{name}: the picture has no pixels ({picture.width} x {picture.height})")
    if clipped:
        warnings.warn(f"{name}: {clipped}, as CogVLM's own code does; to keep the shades use --rescale, or "
                      "image.load(..., rescale=True)", PictureWarning, stacklevel=2)
    return picture


@contextmanager
def decoding(source):
    """The source as a Pillow image, perhaps not decoded yet. What goes wrong inside the `with` is a UserError naming it."""
    name = _name(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                         # remarks on metadata, nothing a reader could act on
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with _opened(source) as picture:
                yield picture
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise UserError(f"{name}: too many pixels (the limit is {Image.MAX_IMAGE_PIXELS}); scale it down") from None
        except Image.UnidentifiedImageError:
            raise NotAPicture(f"{name}: not a picture in a known format ({', '.join(FORMATS)})") from None
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        except FileNotFoundError:
            raise UserError(f"{name}: no such file") from None
        except PermissionError:
            raise UserError(f"{name}: no permission to read it") from None
        except Exception as error:                              # decoders raise almost anything on damaged files
            if "MAX_TEXT" in str(error):
                raise UserError(f"{name}: the texts stored in the picture are longer than Pillow reads; save it "
                                "without its metadata") from None
            raise UserError(f"{name}: the picture is damaged or cannot be decoded ({error})") from None


def size(source):
    """The (width, height) that a picture's header declares; nothing is decoded, and Pillow's exceptions pass."""
    with _opened(source) as picture:
        return picture.size


@op
def pixels(image, size):
    """The picture as the vision transformer's input: (pixel / 255 - mean) / std         -> (3, size, size) float32

    Mean and std are CLIP's. Bit for bit what torchvision's Resize on a Pillow image, ToTensor and Normalize give.
    """
    return normalised(square(load(image), size))


def normalised(picture, mean=CLIP_MEAN, std=CLIP_STD):
    """A Pillow RGB image as (pixel / 255 - mean) / std     -> (3, height, width) float32"""
    colours = np.asarray(picture).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((colours - mean[:, None, None]) / std[:, None, None])


def cropped(picture, size):
    """The middle (size, size) of a picture whose shorter side becomes `size`: the way of OpenAI's CLIP

    Raises UserError for a picture so narrow that it would have too many pixels then.

    Resized by Pillow's BICUBIC, first across and then down, as Pillow always did then; the longer side is rounded down,
    the crop's corner to the nearest, as in torchvision.
    """
    shorter = min(picture.size)
    width, height = (int(size * side / shorter) for side in picture.size)
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise UserError(f"a picture of {picture.width} x {picture.height} pixels is too narrow for its middle to be cut out; "
                        "crop it first")
    bicubic = Image.Resampling.BICUBIC
    picture = picture.resize((width, picture.height), bicubic).resize((width, height), bicubic)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


@op
def square(picture, size):
    """Resized to (size, size), aspect not kept, with Pillow's BICUBIC, which filters when it shrinks.

    It goes one axis at a time and rounds to bytes in between, so the order shows (by up to 19 of 255 levels of noise).
    Pillow before 13 always takes the width first; 13 takes the height first where that is less work. Any version does
    here as 13 does, with which the reference's pixels were made.
    """
    width, height = picture.size
    height_first = height > size and 2 * (width - size) < height - size
    between = (width, size) if height_first else (size, height)
    bicubic = Image.Resampling.BICUBIC
    return picture.resize(between, bicubic).resize((size, size), bicubic)


def endings():
    """How the names of pictures in FORMATS end: {".png", ...}"""
    return {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}


def _name(source):
    """What to call the picture in a message."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)       # a Pillow image; an open file
    return name if isinstance(name, str) and name else "the picture"


@contextmanager
def _opened(source):
    """The source as a Pillow image, perhaps not decoded yet; no file stays open."""
    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or not (source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (3, 4))):
            raise UserError(f"an array of {source.dtype} and shape {source.shape}; pass uint8 of shape "
                            "(height, width), (height, width, 3) or (height, width, 4)")
        yield Image.fromarray(source)
    elif isinstance(source, (str, os.PathLike)):
        about = os.stat(source)
        if stat.S_ISDIR(about.st_mode):
            raise UserError("a folder, not a picture")
        if not stat.S_ISREG(about.st_mode):                     # to open a pipe would wait for ever
            raise UserError("not a regular file")
        if not about.st_size:
            raise UserError("the file is empty")
        with open(source, "rb") as file, _identified(file) as picture:
            yield picture
    elif hasattr(source, "read"):
        with _identified(source) as picture:
            yield picture
    else:
        raise UserError(f"not a path, an open file, a Pillow image or an array but {type(source).__name__}")


def _identified(file):
    """A Pillow image of one of FORMATS, from an open file at whatever place."""
    try:
        file.seek(0)
    except (AttributeError, io.UnsupportedOperation):
        file = io.BytesIO(file.read())
    _check_metadata(file)
    Image.preinit()                                             # the formats that Pillow can do without delay
    with suppress(Image.UnidentifiedImageError):
        return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    Image.init()
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def _check_metadata(file):
    """Refuse a JPEG with an excess of metadata: walk its segments (0xFF, kind, length) up to the picture itself."""
    if file.read(2) == b"\xff\xd8":
        while (head := file.read(4))[:1] == b"\xff" and head[1] != 0xDA:
            file.seek(int.from_bytes(head[2:], "big") - 2, os.SEEK_CUR)
            if file.tell() > LONGEST_METADATA:
                raise UserError(f"more than {LONGEST_METADATA >> 20} MB of metadata; save the picture without it")
    file.seek(0)


def _deep_grey(picture, rescale):
    """A picture of mode I;16, I or F -> the RGB image, what to say of what was lost, or None"""
    values = np.asarray(picture)
    if not np.isfinite(values).all():
        raise UserError("some of its values are NaN or infinite")
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    bits = 16 if picture.mode != "I" or picture.format == "PNG" else 32
    fractions = picture.mode == "F" and low >= 0 and high <= 1
    if rescale:
        if fractions:
            values = values * 255
        elif picture.mode != "F" and bits == 16:
            values = values / 257                               # 65535 is white
        else:
            values = (values - float(low)) * (255 / max(float(high) - float(low), 1e-300))
        return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB"), None
    if fractions and high > 0:
        clipped = "its floating-point values from 0 to 1 were taken for shades from 0 to 255, that is black"
    elif low < 0 or high > 255:
        kind = "floating-point" if picture.mode == "F" else f"{bits}-bit"
        clipped = f"its {kind} values were clipped to 0..255"
    else:
        clipped = None
    return picture.convert("RGB"), clipped
