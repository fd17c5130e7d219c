"""tinycogvlm serve: answer any client of OpenAI's API over HTTP."""
import os
import socket
from ipaddress import ip_address

from ..errors import UserError
from ..loading import found
from ..relatives.pair import Eye, Relative
from .answer import load_any
from .say import say

KEY = "TINYCOGVLM_API_KEY"


def run(arguments):
    try:
        import uvicorn

        from ..serve.app import Limits, Service
    except ImportError as error:
        raise UserError(f"serving needs the packages starlette and uvicorn ({error}): "
                        "pip install 'tinycogvlm[serve]'") from None
    listening = listen(arguments.host, arguments.port)
    host, port = listening.getsockname()[:2]
    local, key = ip_address(host).is_loopback, os.environ.get(KEY)
    model = load_any(arguments)
    if isinstance(model, Relative) and not isinstance(model, Eye):
        raise UserError(f"{model.folder} holds {model.kind}, which neither answers questions nor gives embeddings")
    if not isinstance(model, Relative) and model.tokenizer is None:
        raise UserError("this model has no tokenizer; name one with --tokenizer")
    path = found(arguments.weights).absolute()
    name = path.stem if path.suffix == ".gguf" else path.name
    limits = Limits(batch=arguments.batch, queue=arguments.queue, seconds=arguments.seconds)
    service = Service(model, name, limits, arguments.template, arguments.rescale)
    if not local and not key:
        say(f"tinycogvlm: whoever reaches this machine may ask; set {KEY} to require a key")
    shown = f"[{host}]" if ":" in host else host
    say(f"{service.name} at http://{shown}:{port}/v1; Ctrl-C stops it")
    config = uvicorn.Config(service.application(key, local), log_level="warning", lifespan="on", server_header=False,
                            limit_concurrency=4 * (limits.queue + limits.batch), timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def listen(host, port):
    """A socket that is bound, before the model is loaded"""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"{host}:{port}: cannot be listened at ({error.strerror or error})") from None
