"""Pictures: preprocessing as the original's, every mode and format, and every way in which a file is no picture."""
import hashlib
import io
import json
import os
import time
import zlib
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tinycogvlm.inputs import image
from tinycogvlm.errors import UserError
from tinycogvlm.storage.checkpoint import Checkpoint

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "auxiliary/preprocess.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def golden():
    return {name: tensor.numpy() for name, tensor in Checkpoint(GOLDEN / "auxiliary/preprocess.safetensors").items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_preprocessing_is_the_originals(case, golden):
    raw = golden[case["name"] + "/raw"]
    for source in (raw, Image.fromarray(raw), image.load(raw)):
        pixels = image.pixels(source, case["size"])
        assert pixels.dtype == np.float32 and pixels.shape == (3, case["size"], case["size"])
        colours = pixels * image.CLIP_STD[:, None, None] + image.CLIP_MEAN[:, None, None]
        assert np.array_equal(np.rint(colours * 255).transpose(1, 2, 0), golden[case["name"] + "/resized"])
        if case["name"] + "/normalized" in golden:
            assert np.abs(pixels - golden[case["name"] + "/normalized"]).max() <= 1e-6
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == case["normalized_sha256"], "not the same bits"


@pytest.mark.parametrize("case", ["v1_tiny", "v2_tiny", "v1_eps", "v1_bf16"])
def test_preprocessing_of_the_golden_models(case):
    tensors = Checkpoint(GOLDEN / case / "activations.safetensors")
    raw, expected = tensors["img/raw"].numpy(), tensors["img/pixel_values"]
    pixels = image.pixels(raw, expected.shape[-1])
    tolerance = 1e-6 if expected.dtype == "F32" else np.abs(pixels) / 256       # bfloat16 keeps 8 bits
    assert (np.abs(pixels - expected.numpy()[0]) <= tolerance).all()


def colours(mode):
    """Four pixels of `mode` and what the original sees of them."""
    if mode in ("L", "1", "I", "F", "LA", "P", "PA"):
        rgb = [(0, 0, 0), (255, 255, 255), (0, 0, 0), (255, 255, 255)]
    else:
        rgb = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 200, 30)]
    picture = Image.new("RGB", (2, 2))
    picture.putdata(rgb)
    return picture, np.array(rgb, np.uint8).reshape(2, 2, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "LA", "PA", "RGBX",
                                  "RGBa"])
def test_every_mode(mode):
    picture, expected = colours(mode)
    source = picture.convert("P").convert("PA") if mode == "PA" else picture.convert(mode if mode != "RGBa" else "RGBA")
    source = source.convert("RGBa") if mode == "RGBa" else source
    loaded = image.load(source)
    assert loaded.mode == "RGB" and loaded is not source
    tolerance = {"YCbCr": 3, "HSV": 3}.get(mode, 0)
    assert np.abs(np.asarray(loaded).astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("kind, mode, tolerance", [
    ("PNG", "RGB", 0), ("PNG", "RGBA", 0), ("PNG", "P", 0), ("PNG", "1", 0), ("PNG", "L", 0), ("PNG", "LA", 0),
    ("BMP", "RGB", 0), ("TIFF", "CMYK", 0), ("TIFF", "RGB", 0), ("GIF", "P", 0), ("JPEG", "RGB", 3),
    ("JPEG", "CMYK", 3),
    ("PPM", "RGB", 0), ("TGA", "RGBA", 0), ("WEBP", "RGB", 0), ("ICO", "RGBA", 0)])
def test_every_format(kind, mode, tolerance, tmp_path):
    picture, expected = colours(mode)
    path = tmp_path / "picture.any"                          # the name says nothing: the content does
    picture.resize((64, 64), Image.Resampling.NEAREST).convert(mode).save(path, kind, lossless=True)
    for source in (path, str(path), io.BytesIO(path.read_bytes())):
        centres = np.asarray(image.load(source))[16::32, 16::32].astype(int)        # (2, 2, 3); JPEG blurs the edges
        assert np.abs(centres - expected).max() <= tolerance
    path.unlink()                                            # no handle is left open (Windows would refuse)


def test_alpha_is_dropped_and_not_composited(tmp_path, recwarn):
    hidden = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert image.load(hidden).getpixel((0, 0)) == (10, 20, 30)
    palette = Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30] * 256)
    palette.save(tmp_path / "palette.png", transparency=bytes(256))
    assert image.load(tmp_path / "palette.png").getpixel((0, 0)) == (10, 20, 30)
    assert not recwarn.list, "Pillow's remarks on palettes must not reach the user"


SHADES = (0, 100, 255, 256, 1000, 65535)
CLIPPED, DIVIDED, STRETCHED = (0, 100, 255, 255, 255, 255), (0, 0, 1, 1, 4, 255), (0, 0, 1, 1, 4, 255)


@pytest.mark.parametrize("dtype, name, what", [
    (np.uint16, "deep.png", "16-bit values were clipped"), (np.uint16, "deep.tiff", "16-bit values were clipped"),
    (np.int32, "deep.tiff", "32-bit values were clipped"), (np.float32, "deep.tiff", "floating-point values were")])
def test_deep_grey_is_clipped_and_said_to_be(dtype, name, what, tmp_path):
    """Pillow's convert does not scale 16 bits to 8, and the original calls just that."""
    source = Image.fromarray(np.array([SHADES], dtype))
    source.save(tmp_path / name)
    for deep, called in ((source, "the picture"), (tmp_path / name, str(tmp_path / name))):
        with pytest.warns(image.PictureWarning, match=f"{called}: its {what}.*--rescale"):
            assert np.asarray(image.load(deep))[0].tolist() == [[v] * 3 for v in CLIPPED]


@pytest.mark.parametrize("values, dtype, expected", [
    (SHADES, np.uint16, DIVIDED), (range(0, 65536, 257), np.uint16, range(256)),
    ((0, 0.25, 0.5, 1), np.float32, (0, 64, 128, 255)), ((0, 0.002, 0.1), np.float32, (0, 1, 26)),
    ((-50, 0, 50, 205), np.float32, (0, 50, 100, 255)), (SHADES, np.int32, STRETCHED),
    ((0, 2, 3), np.int32, (0, 170, 255)), ((-2 ** 31, 0, 2 ** 31 - 1), np.int32, (0, 128, 255)), ((7, 7), np.int32, (0, 0)), ((7, 7), np.float32, (0, 0)),
    ((0, 0), np.float32, (0, 0))])
def test_deep_grey_rescaled(values, dtype, expected, tmp_path, recwarn):
    Image.fromarray(np.array([list(values)], dtype)).save(tmp_path / "deep.tiff")
    loaded = np.asarray(image.load(tmp_path / "deep.tiff", rescale=True))
    assert loaded[0].tolist() == [[shade] * 3 for shade in expected]
    assert not recwarn.list


def test_rescaling_gives_back_the_same_shades_from_any_depth(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "deep.tiff")
    for name in ("deep.png", "deep.tiff"):
        assert (np.asarray(image.load(tmp_path / name, rescale=True)) == grey[..., None]).all()
    assert (np.asarray(image.load(grey, rescale=True)) == grey[..., None]).all()


@pytest.mark.parametrize("values", [(0, 100, 255), (0, 0, 0)])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_grey_that_loses_nothing_is_not_spoken_of(values, dtype, recwarn):
    loaded = np.asarray(image.load(Image.fromarray(np.array([values], dtype))))
    assert loaded[0].tolist() == [[v] * 3 for v in values] and not recwarn.list


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_numbers_are_refused(value):
    for rescale in (False, True):
        with pytest.raises(UserError, match="NaN or infinite"):
            image.load(Image.fromarray(np.float32([[0, value]])), rescale)


def test_the_tie_of_the_axes_takes_the_width_first():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8))
    bicubic = Image.Resampling.BICUBIC
    first, other = (picture.resize(size, bicubic).resize((4, 4), bicubic).tobytes() for size in ((4, 8), (6, 4)))
    assert image.square(picture, 4).tobytes() == first != other


def test_exif_rotation_is_not_applied(tmp_path):
    picture = Image.new("RGB", (8, 4))
    exif = picture.getexif()
    exif[0x0112] = 6                                         # Orientation: turn by 90 degrees to view
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert image.load(tmp_path / "turned.jpg").size == (8, 4)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    for name in ("moving.gif", "moving.png", "pages.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert image.load(tmp_path / name).getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3), (3, 4, 4)])
def test_arrays(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    before = array.copy()
    loaded = np.asarray(image.load(array))
    assert np.array_equal(loaded, array[..., :3] if array.ndim == 3 else array[..., None].repeat(3, 2))
    assert np.array_equal(array, before)


def png(width, height, depth=1):
    """A PNG that declares this size and holds a few bytes."""
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def truncated(kind):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()[:len(buffer.getvalue()) // 2]


@pytest.mark.parametrize("name, content, sentence", [
    ("bomb.png", png(30_000, 30_000), "too many pixels"),
    ("large.png", png(10_000, 10_000), "too many pixels"),
    ("text.png", b"This is a text.\n" * 100, "not a picture"),
    ("zeros.jpg", bytes(1000), "not a picture"),
    ("empty.png", b"", "the file is empty"),
    ("nothing.png", png(0, 5), None),
    ("cut.png", truncated("PNG"), "damaged"),
    ("cut.jpg", truncated("JPEG"), "damaged"),
    ("cut.gif", truncated("GIF"), None),
    ("cut.bmp", truncated("BMP"), "damaged"),
    ("cut.tiff", truncated("TIFF"), None),
    ("header.png", b"\x89PNG\r\n\x1a\n", None),
])
def test_what_is_no_picture_is_named(name, content, sentence, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        image.load(path)
    assert str(caught.value).startswith(f"{path}: ") and (sentence or "") in str(caught.value)
    with pytest.raises(UserError) as caught, open(path, "rb") as file:
        image.load(file)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(UserError):
        image.load(io.BytesIO(content))


def test_missing_files_and_folders(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file"):
        image.load(tmp_path / "missing.png")
    with pytest.raises(UserError, match="a folder, not a picture"):
        image.load(tmp_path)

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")
    (tmp_path / "locked.png").write_bytes(b"any")
    monkeypatch.setattr(image, "open", forbidden, raising=False)
    with pytest.raises(UserError, match="locked.png: no permission"):
        image.load(tmp_path / "locked.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_what_is_not_a_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        with pytest.raises(UserError, match=f"{path}: not a regular file"):
            image.load(path)


@pytest.mark.parametrize("name, content", [
    ("photo.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"),
    ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)),
    ("photo.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")])
def test_other_formats_are_refused_and_no_program_is_started(name, content, tmp_path, monkeypatch):
    """Pillow would give EPS to Ghostscript, whatever the file is called."""
    from PIL import EpsImagePlugin
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path / name, io.BytesIO(content)):
        with pytest.raises(UserError, match="not a picture in a known format .PNG, JPEG, GIF"):
            image.load(source)


def test_long_texts_in_a_picture_are_not_called_damage(tmp_path):
    about = PngImagePlugin.PngInfo()
    about.add_text("note", "x" * (2 << 20), zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "noted.png", pnginfo=about)
    with pytest.raises(UserError, match="noted.png: the texts stored in the picture are longer than Pillow reads"):
        image.load(tmp_path / "noted.png")


def jpeg_with(metadata):
    """A JPEG with so many bytes of APP1 segments."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 0, 0)).save(buffer, "JPEG")
    segment = b"\xff\xe1" + (65535).to_bytes(2, "big") + b"Exif\0\0" + bytes(65527)
    return buffer.getvalue()[:2] + segment * (metadata // 65537) + buffer.getvalue()[2:]


def test_an_excess_of_metadata_is_refused_at_once(tmp_path):
    """Pillow takes quadratic time: 20 seconds for 80 MB."""
    path, start = tmp_path / "photo.jpg", time.process_time()
    path.write_bytes(jpeg_with(60 << 20))
    with pytest.raises(UserError, match="photo.jpg: more than 16 MB of metadata; save the picture without it"):
        image.load(path)
    assert time.process_time() - start < 2
    path.write_bytes(jpeg_with(2 << 20))                     # a depth map of a telephone
    assert image.load(path).getpixel((4, 4))[0] > 190


def test_the_longest_metadata(tmp_path, monkeypatch):
    """To the byte: the last segment before the picture ends where its scan begins."""
    content = jpeg_with(200_000)
    (tmp_path / "photo.jpg").write_bytes(content)
    begins = content.index(b"\xff\xda")
    for longest, raises in ((begins, nullcontext()), (begins - 1, pytest.raises(UserError, match="of metadata"))):
        monkeypatch.setattr(image, "LONGEST_METADATA", longest)
        with raises:
            image.load(tmp_path / "photo.jpg")


def test_a_file_that_cannot_be_rewound_is_read():
    class Pipe(io.BytesIO):
        def seek(self, *_):
            raise io.UnsupportedOperation
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(buffer, "TGA")
    assert image.load(Pipe(buffer.getvalue())).getpixel((2, 1)) == (1, 2, 3)


@pytest.mark.parametrize("source", [None, 3, [1, 2], np.zeros((3, 4)), np.zeros((3, 4, 2), np.uint8),
                                    np.zeros((0, 4), np.uint8), np.zeros((1, 3, 4, 3), np.uint8),
                                    Image.new("RGB", (0, 5))], ids=lambda source: type(source).__name__)
def test_what_cannot_be_a_picture(source):
    with pytest.raises(UserError):
        image.load(source)


def test_random_damage_is_an_error_or_a_picture():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8)).save(buffer, kind)
        content = np.frombuffer(buffer.getvalue(), np.uint8)
        for _ in range(60):
            damaged = content.copy()
            damaged[rng.integers(0, min(200, len(content)), 3)] = rng.integers(0, 256, 3)
            with suppress(UserError):
                assert image.load(io.BytesIO(damaged.tobytes())).mode == "RGB"


def test_a_picture_too_narrow_for_its_middle(monkeypatch):
    narrow = Image.new("RGB", (1, 2))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32)
    assert image.cropped(narrow, 4).size == (4, 4)                              # 4 x 8 on the way
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)
    with pytest.raises(UserError, match="a picture of 1 x 2 pixels is too narrow for its middle to be cut out; crop it"):
        image.cropped(narrow, 4)
