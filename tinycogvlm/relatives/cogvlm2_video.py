"""CogVLM2-Video (Hong et al. 2024, arXiv 2408.16500): what differs from CogVLM2 is its input, the frames of a video.

The model is model/ as it stands, with one set of weights in each block (families.py: no visual experts). Its frames are
chosen in inputs/video.py and laid out in inputs/prompt.py; here is the golden case of both. The real checkpoint has not
been loaded here: none was at hand.
"""
import numpy as np
from PIL import Image

from ..inputs import prompt, video
from ..inputs.tokenizer import ByteTokenizer
from ..model.config import Config, VisionConfig
from ..model.route import position_ids
from ..nn.arrays import to_numpy
from .registry import Case


def config_of(tokens):
    """A geometry whose frames have this many patches: a square, after the 2x2 convolution"""
    side = 2 * int(tokens ** 0.5)
    vision = VisionConfig(8, 1, 1, 8, 1, side)
    return Config(259, 8, 8, 1, 1, 1, vision, "cogvlm2-video", 2048, bos_token_id=256, eos_token_id=257,
                  pad_token_id=258)


def layout(frames, tokens, query, strategy):
    """{input_ids, token_type_ids (1 on frames), position_ids} of a question about a video, each (T,)"""
    config = config_of(tokens)
    clip = video.Video([Image.new("RGB", (1, 1))] * frames, strategy)
    inputs = prompt.build(config, ByteTokenizer(config), prompt.text(strategy, query), [clip])
    return {"input_ids": inputs.ids[0], "token_type_ids": (inputs.types[0] > 0).astype(np.int64),
            "position_ids": position_ids(inputs.types)[0]}


def frames_and_layouts(x, p, config):
    """The case: which frames are chosen from the times of all; the prompt for them, under both strategies"""
    x, found = {name: to_numpy(array) for name, array in x.items()}, {}
    for strategy in ("chat", "base"):
        for i in range(config["videos"]):
            found[f"{strategy}_frames{i}"] = np.array(video.chosen(x[f"timestamps{i}"], float(x[f"fps{i}"]), strategy))
        for i in range(config["clips"]):
            query = bytes(x[f"query{i}"].tolist()).decode()
            made = layout(int(x[f"frames{i}"]), int(x[f"tokens_per_frame{i}"]), query, strategy)
            found |= {f"{strategy}{i}/{name}": array for name, array in made.items()}
    return found, None


CASES = {"cogvlm2_video": Case(lambda fields, shapes: {kind: len(fields.get(kind)) for kind in ("videos", "clips")},
                               lambda config: {}, frames_and_layouts)}
