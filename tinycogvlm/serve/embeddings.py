"""OpenAI's embeddings, of texts and pictures, by the towers of a CLIP or a SigLIP: vectors whose products are cosines."""
import base64

import numpy as np

from ..nn.arrays import to_numpy
from ..relatives.pair import Pair
from ..storage.reading import short
from .protocol import Refused, pictures, usage

MOST = 256                                                  # texts and pictures of a request


def embed(model, name, body, pixels):
    """The answer to a request's JSON body. An input that is a data: address is a picture, any other a text."""
    given = body.get("input")
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not 0 < len(given) <= MOST or not all(isinstance(each, str) for each in given):
        raise Refused(400, f"input must be a text, a picture as data:image/...;base64,..., or a list of 1 to {MOST} of "
                           f"them, not {short(given)}", "input")
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise Refused(400, "encoding_format is 'float' or 'base64'", "encoding_format")
    seen = [i for i, each in enumerate(given) if each[:5].lower() == "data:"]
    said = [i for i, each in enumerate(given) if each[:5].lower() != "data:"]
    vectors, tokens = [None] * len(given), 0
    if said:
        if not isinstance(model, Pair):
            raise Refused(400, f"{name} is {model.kind}, which reads no texts", "input")
        texts = [given[i] for i in said]
        tokens = int(model.ids(texts).size)
        vectors = placed(vectors, said, model.text_features(texts))
    if seen:
        vectors = placed(vectors, seen, model.image_features(pictures([given[i] for i in seen], pixels)))
    write = as_base64 if body.get("encoding_format") == "base64" else np.ndarray.tolist
    data = [{"object": "embedding", "index": i, "embedding": write(vector)} for i, vector in enumerate(vectors)]
    used = usage(tokens, 0)
    return {"object": "list", "model": name, "data": data,
            "usage": {key: used[key] for key in ("prompt_tokens", "total_tokens")}}


def placed(vectors, places, rows):
    """The list with rows (n, E) at n places"""
    found = dict(zip(places, to_numpy(rows).astype("<f4")))
    return [found.get(i, vector) for i, vector in enumerate(vectors)]


def as_base64(vector):
    """Little-endian float32, as OpenAI's client decodes them"""
    return base64.b64encode(vector.tobytes()).decode()
