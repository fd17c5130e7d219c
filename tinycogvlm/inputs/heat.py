"""Numbers of an image's patches, drawn over the picture."""
import numpy as np
from PIL import Image

from . import image as pictures

HOT = np.array((255, 48, 0))
SMALLEST = 336          # pixels of the longer side; smaller pictures are enlarged


def draw(picture, heat):
    """The picture, darker, with every patch the redder the larger its number            -> Pillow RGB image

    picture: whatever image.load takes. heat (g, g): numbers of 0 or more; the largest becomes fully red. The patches
    are those of the square that the model sees, so they are stretched with the picture.
    """
    shown = pictures.load(picture)
    factor = -(-SMALLEST // max(shown.size))
    shown = shown.resize((shown.width * factor, shown.height * factor), Image.Resampling.NEAREST)
    share = Image.fromarray(np.uint8(np.round(heat / max(heat.max(), 1e-30) * 255)))
    share = np.asarray(share.resize(shown.size, Image.Resampling.NEAREST))[..., None] / 255
    return Image.fromarray(np.uint8(np.round(np.asarray(shown) * (0.6 - 0.4 * share) + HOT * share * 0.8)))
