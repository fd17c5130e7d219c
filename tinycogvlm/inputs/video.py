"""From a video to the frames that CogVLM2-Video sees: how to choose them, and files, folders, animated pictures.

Hong et al. 2024 (arXiv 2408.16500) and the video demonstration of its repository. Strategies:

    chat    the frame nearest to each whole second 0, 1, 2, ..., at most 24: a long video is cut. The text after a frame
            is its number, the second, so that the model can say when something happens.
    base    24 frames, evenly spread over the first minute, without any text between them.
    spread  ours: frames spread as in base, each followed by its second as in chat, however fast or slow the video is.

            bos  boi  p  p  p  eoi  "0"  boi  p  p  p  eoi  "1"  Question: ...          chat
    types    0    1   1  1  1   1    0    2   2  2  2   2    0   0
    position 0    1   2  2  2   3    4    5   6  6  6   7    8   9

            bos  boi  p  p  p  eoi  boi  p  p  p  eoi  When ...                         base: one medium, so that all
    types    0    1   1  1  1   1    1   1  1  1   1   0                                tokens but its first and last
    position 0    1   2  2  2   2    2   2  2  2   3   4                                share a position
"""
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from . import image

STRATEGIES = ("chat", "base", "spread")
MOST = 24                                                   # frames of a video, as in training
MINUTE = 60                                                 # seconds of a file that are looked at
TOO_MANY = 20_000                                           # frames in them
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")                   # formats whose pictures say how long each is shown
UNTIMED = 0.1                                               # seconds of a picture that is shown for 0, as browsers do it
# What FFmpeg may take a file for: no playlists, which name other files.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg"


@dataclass(frozen=True)
class Video:
    """Frames that were chosen from a video, anything that image.load takes, and how a prompt lays them out.

    seconds: what is written after each frame, where that is not 0, 1, 2, ... rescale: as in image.load.
    """
    frames: list
    strategy: str = "chat"
    seconds: tuple | None = None
    rescale: bool = False

    def __post_init__(self):
        check(self.strategy)
        if not self.frames:
            raise UserError("a video of no frames")
        if self.seconds is not None and len(self.seconds) != len(self.frames):
            raise UserError(f"a video of {len(self.frames)} frames with {len(self.seconds)} seconds; each frame has one")

    def pixels(self, size):
        """The middle of each frame, as the vision transformer's input        -> (N, 3, size, size) float32"""
        return np.stack([image.normalised(image.cropped(image.load(frame, self.rescale), size)) for frame in self.frames])


def check(strategy):
    if strategy not in STRATEGIES:
        raise UserError(f"no strategy {strategy!r}; there are {', '.join(STRATEGIES)}")


def chosen(times, rate, strategy="chat", most=MOST):
    """Which frames the model sees -> their indices, some perhaps twice

    times: when each frame begins, in seconds, not empty. rate: frames a second, on average; None if all of these frames
    begin in the first minute.
    """
    if strategy in ("base", "spread"):
        end = len(times) if rate is None else max(1, min(len(times), int(MINUTE * rate)))
        return np.linspace(0, end - 1, most if strategy == "base" else min(most, end), dtype=int).tolist()
    times = np.asarray(times)
    seconds = min(most, round(float(times.max())) + 1)      # half a second rounds to even, as Python does
    return [int(np.abs(times - second).argmin()) for second in range(seconds)]


def read(path, strategy="chat", fps=None, most=MOST, rescale=False):
    """The Video in a file (MP4 and the like, or an animated picture) or in a folder of pictures.

    fps: frames a second of a folder, 1 by default, whose pictures come in the order of their names, numbers by their
    value. most: how many frames are chosen. rescale: as in image.load. Files tell their times themselves; a rotation
    stored in them is not applied.
    Raises UserError, naming the file: for a single picture or none, more than TOO_MANY in the first minute, damage, and
    for anything but an animated picture where the package av is missing.
    """
    check(strategy)
    path = Path(path)
    if path.is_dir():
        frames, times = folder(path, strategy, fps or 1.0, most)
    elif fps:
        raise UserError(f"{path}: frames a second are given for a folder of pictures; a file tells its times itself")
    else:
        try:
            frames, times = animation(path, strategy, most)
        except image.NotAPicture:
            frames, times = film(path, strategy, most)
    return Video(frames, strategy, tuple(round(time) for time in times) if strategy == "spread" else None, rescale)


def folder(path, strategy, fps, most=MOST):
    """The chosen pictures of a folder, as paths, and when each begins"""
    endings = image.endings()
    paths = [file for file in path.iterdir() if file.suffix.lower() in endings and not file.name.startswith(".")]
    paths = sorted(paths, key=lambda file: [int(part) if part.isdecimal() else part
                                            for part in re.split("([0-9]+)", file.name)])
    times = np.arange(checked(path, len(paths))) / fps
    wanted = chosen(times, fps, strategy, most)
    return [paths[index] for index in wanted], times[wanted].tolist()


def animation(path, strategy, most=MOST):
    """The chosen frames of an animated picture, as Pillow images, and when each begins"""
    with image.decoding(path) as picture:
        if picture.format not in ANIMATED or not getattr(picture, "is_animated", False):
            raise UserError("a single picture, not a video; ask without --video")
        times, end = [], 0.0
        for index in range(picture.n_frames):
            if end > MINUTE:
                break
            check_count(index)
            picture.seek(index)
            picture.load()
            times.append(end)
            end += picture.info.get("duration", 0) / 1000 or UNTIMED
        wanted, frames = chosen(times, None, strategy, most), {}
        for index in sorted(set(wanted)):
            picture.seek(index)
            frames[index] = picture.convert("RGB")
    return [frames[index] for index in wanted], [times[index] for index in wanted]


def film(path, strategy, most=MOST):
    """The chosen frames of a file that FFmpeg decodes, as Pillow images, and when each begins"""
    try:
        import av
    except ImportError:
        raise UserError(f"{path}: to read a video needs the package av: pip install 'tinycogvlm[video]'; or give a "
                        "folder of its frames") from None
    opened = False
    try:
        with open(path, "rb") as file, av.open(file, options={"format_whitelist": CONTAINERS}) as container:
            opened = True
            if not container.streams.video:
                raise UserError(f"{path}: no video is in it")
            stream = container.streams.video[0]
            if stream.width * stream.height > Image.MAX_IMAGE_PIXELS:
                raise UserError(f"{path}: too many pixels (the limit is {Image.MAX_IMAGE_PIXELS}); scale it down")
            stamps = time_stamps(path, container, stream)
            times = [float((stamp - stamps[0]) * stream.time_base) for stamp in stamps]
            rate = float(stream.average_rate or len(times) / (times[-1] or 1))
            numbers = chosen(times[:checked(path, len(times))], rate, strategy, most)
            wanted = [stamps[index] for index in numbers]
            container.seek(stamps[0], stream=stream)
            frames = {}
            for frame in container.decode(stream):
                if frame.pts in wanted:
                    frames[frame.pts] = frame.to_image()
                if len(frames) == len(set(wanted)):
                    return [frames[stamp] for stamp in wanted], [times[index] for index in numbers]
    except av.FFmpegError as error:
        says = "the video is damaged or cut short" if opened else "neither a picture nor a video that can be decoded, or one that is cut short"
        raise UserError(f"{path}: {says} ({error.strerror})") from None
    raise UserError(f"{path}: the video is damaged: {len(set(wanted)) - len(frames)} of its frames cannot be decoded")


def time_stamps(path, container, stream):
    """When the frames of the first minute begin, in units of the stream's time base, in their order

    UserError if the file ends before they do: FFmpeg silently skips frames that an MP4's index names but the file no
    longer holds.
    """
    stamps, seen = [], 0
    for packet in container.demux(stream):
        seen += packet.size > 0
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None or packet.is_discard:
            continue
        if stamps and (stamp - stamps[0]) * stream.time_base > MINUTE + 1:      # a second for those out of order
            break
        check_count(len(stamps), f"{path}: ")
        stamps.append(stamp)
    else:
        if "mp4" in container.format.name and seen < stream.frames:
            raise UserError(f"{path}: the video is cut short: {seen} of its {stream.frames} frames are there")
    return sorted(stamps)


def check_count(frames, before=""):
    if frames >= TOO_MANY:
        raise UserError(f"{before}more than {TOO_MANY:,} frames in its first minute")


def checked(path, frames):
    """How many frames there are, which must be two at least"""
    if frames < 2:
        raise UserError(f"{path}: {'a single picture' if frames else 'no picture'} in it; a video has 2 frames at least")
    return frames
