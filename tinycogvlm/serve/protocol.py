"""OpenAI's chat completions as JSON: what a request asks for, and how answers and errors are written.

Clients send many fields; those that change nothing here are ignored, as are unknown ones.
"""
import base64
import binascii
import io
import time
from dataclasses import dataclass, field

from PIL import Image

from ..errors import UserError
from ..inputs import grounding, image
from ..model.generate import Sampling
from ..storage.reading import short

SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
STOPS = 16                                                  # stop strings of a request, at most
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refused(Exception):
    """An error that the client is told: its HTTP status, a sentence, the field at fault, a word for programs."""

    def __init__(self, status, message, param=None, code=None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self):
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass
class Request:
    """A chat completion that is asked for. pictures stand before the text, where the model saw them in training."""
    question: str
    history: list
    pictures: list
    limit: int | None
    sampling: Sampling
    stop: tuple
    stream: bool
    usage: bool                                             # whether a stream ends with it
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))


def request(body, pixels):
    """The Request in a JSON body; its pictures have at most so many `pixels` together. Raises Refused."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Refused(400, "messages must be a list of {role, content}", "messages")
    if body.get("n") not in (None, 1):
        raise Refused(400, "n is 1 here: ask again for another answer, with another seed", "n")
    turns, urls, system = [], [], []
    for i, message in enumerate(messages):
        role, text = message.get("role"), _content(message, f"messages[{i}]", urls)
        if role in ("system", "developer") and not turns:
            system.append(text)
            continue
        wanted = ("user", "assistant")[len(turns) % 2]
        if role != wanted:
            raise Refused(400, f"messages[{i}] has the role {short(role)}, not {wanted!r}: after system messages come "
                               "user and assistant by turns", "messages")
        turns.append(text)
    if len(turns) % 2 == 0:
        raise Refused(400, "the last message must be the user's", "messages")
    turns[0] = "\n".join([*system, turns[0]])               # these templates have no place for a system's words
    options = body.get("stream_options")
    given = {name: body[name] for name in SAMPLING if body.get(name) is not None}
    try:
        sampling = Sampling(**given)
    except UserError as error:
        raise Refused(400, str(error), str(error).partition(" ")[0]) from None
    return Request(turns[-1], list(zip(turns[:-1:2], turns[1::2])), pictures(urls, pixels), _limit(body), sampling,
                   _stop(body), body.get("stream") is True, isinstance(options, dict) and bool(options.get("include_usage")))


def _content(message, place, urls):
    """The text of a message; the addresses of its pictures are appended to `urls`."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        address = part.get("image_url") if kind == "image_url" else None
        address = address.get("url") if isinstance(address, dict) else address
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(address, str) and message.get("role") == "user":
            urls.append(address)
        else:
            raise Refused(400, f"the content of {place} has {short(part)}; it must be a text, or a list of "
                               '{"type": "text", "text": ...} and, from the user, {"type": "image_url", "image_url": '
                               '{"url": "data:image/png;base64,..."}}', "messages")
    return "".join(texts)


def _limit(body):
    name = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    limit = body.get(name)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise Refused(400, f"{name} is {short(limit)}; it must be a whole number, 1 or more", name)
    return limit


def _stop(body):
    stop = body.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or len(stop) > STOPS or not all(isinstance(word, str) and word for word in stop):
        raise Refused(400, f"stop must be a text, or a list of at most {STOPS} that are not empty", "stop")
    return tuple(stop)


def pictures(urls, most):
    """The pictures of data: addresses, as open files whose headers say that they have at most `most` pixels together

    Nothing is fetched: an address on the network would let a client look into the server's own (SSRF).
    """
    files, total = [], 0
    for url in urls:
        head, comma, data = url.partition(",")
        if not (head.lower().startswith("data:") and head.lower().endswith(";base64") and comma):
            raise Refused(400, f"a picture's url begins with {short(url[:30])}; it must be data:image/...;base64,... : "
                               "this server fetches nothing", "messages", "invalid_image_url")
        try:
            file = io.BytesIO(base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError):
            raise Refused(400, "a picture's url is not valid base64", "messages", "invalid_base64") from None
        file.name = f"picture {len(files) + 1}"
        files.append(file)
        total += _pixels(file)
        if total > most:
            raise Refused(400, f"the pictures have more than {most:,} pixels together; scale them down", "messages",
                          "image_too_large")
    return files


def _pixels(file):
    """Width times height as the header says; 0 where that cannot be read: reading the picture will say why."""
    try:
        width, height = image.size(file)
    except Image.DecompressionBombError:
        return 1 << 62
    except Exception:                                       # Pillow raises almost anything on damaged files
        return 0
    finally:
        file.seek(0)
    return width * height


def usage(prompt, completion):
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion(asked, model, text, tokens, finish, used):
    """The whole answer"""
    message = {"role": "assistant", "content": text, **found(text, tokens)}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    return {"id": asked.id, "object": "chat.completion", "created": asked.created, "model": model, "choices": [choice],
            "usage": used}


def found(text, tokens):
    """Additions of ours, which clients pass on: boxes in thousandths, the names of what is in them, the tokens' ids"""
    return {"boxes": grounding.parse(text)[0], "names": grounding.names(text), "tokens": tokens}


def chunk(asked, model, delta, finish=None):
    """One piece of a stream"""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {"id": asked.id, "object": "chat.completion.chunk", "created": asked.created, "model": model,
            "choices": [choice]}


def card(model, created, answers, sees):
    """A model as GET /v1/models lists it; whether it answers questions, and about pictures, are additions of ours."""
    return {"id": model, "object": "model", "created": created, "owned_by": "tinycogvlm", "answers": answers, "sees": sees}
