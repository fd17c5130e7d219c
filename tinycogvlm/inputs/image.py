"""From a picture in any format to the pixels that the vision transformer sees, exactly as the original does it."""
import os
import warnings

import numpy as np
from PIL import Image

from ..errors import UserError
from ..nn.swap import op

CLIP_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)      # of R, G, B (OpenAI's CLIP)
CLIP_STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


def load(source):
    """The picture as a new Pillow RGB image; `source` is a path, an open binary file, a Pillow image or an array.

    An array is uint8: (height, width) grey, (height, width, 3) RGB or (height, width, 4) RGBA. The original calls
    Pillow's convert("RGB"), so this is what it sees:
    - EXIF orientation is NOT applied: a photograph that viewers turn upright stays as the sensor stored it;
    - alpha is dropped, not composited: a transparent pixel shows the colour stored under it;
    - 16-bit and 32-bit grey is clipped at 255, not scaled: a 16-bit scan is almost white. Scale such a picture first;
    - CMYK and the like are converted without colour profiles; of an animation the first frame counts.

    Raises UserError, naming the file, for what is no picture, is cut short, has no pixels, or declares more than
    Pillow's limit of 89 million pixels (a small file that unpacks to gigabytes; the model sees at most 1344 x 1344).
    """
    name = _name(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                         # remarks on metadata, nothing a reader could act on
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            picture = _rgb(source)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise UserError(f"{name}: too many pixels (the limit is {Image.MAX_IMAGE_PIXELS}); scale it down") from None
        except Image.UnidentifiedImageError:
            raise UserError(f"{name}: not a picture in a format that Pillow knows") from None
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"{name}: no such file") from None
        except PermissionError:
            raise UserError(f"{name}: no permission to read it") from None
        except Exception as error:                              # decoders raise almost anything on damaged files
            raise UserError(f"{name}: the picture is damaged or cannot be decoded ({error})") from None
    if 0 in picture.size:
        raise UserError(f"{name}: the picture has no pixels ({picture.width} x {picture.height})")
    return picture


@op
def pixels(image, size):
    """The picture as the vision transformer's input: (pixel / 255 - mean) / std         -> (3, size, size) float32

    Mean and std are CLIP's. Bit for bit what torchvision's Resize on a Pillow image, ToTensor and Normalize give.
    """
    colours = np.asarray(square(load(image), size)).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((colours - CLIP_MEAN[:, None, None]) / CLIP_STD[:, None, None])


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


def _name(source):
    """What to call the picture in a message."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)       # a Pillow image; an open file
    return name if isinstance(name, str) else "the picture"


def _rgb(source):
    """A new RGB image, its pixels decoded, with no file left open."""
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or not (source.ndim == 2 or source.ndim == 3 and source.shape[2] in (3, 4)):
            raise UserError(f"an array of {source.dtype} and shape {source.shape} is no picture: pass uint8 of shape "
                            "(height, width), (height, width, 3) or (height, width, 4)")
        if not source.size:
            raise UserError(f"an array of shape {source.shape} has no pixels")
        return Image.fromarray(source).convert("RGB")
    if isinstance(source, (str, os.PathLike)):
        if os.path.isdir(source):
            raise UserError(f"{os.fspath(source)}: a folder, not a picture")
        if os.path.isfile(source) and not os.path.getsize(source):
            raise UserError(f"{os.fspath(source)}: the file is empty")
    elif not hasattr(source, "read"):
        raise UserError(f"a picture is a path, an open file, a Pillow image or an array, not {type(source).__name__}")
    with Image.open(source) as image:
        return image.convert("RGB")
