"""The web application: routes, limits, and answers that stop when the client leaves. Starlette, no model in here."""
import asyncio
import json
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..errors import UserError
from ..inputs import image
from ..model import generate
from ..relatives.pair import Eye, Relative
from ..storage.reading import short
from ..world import atlas
from . import editor, page, protocol
from .batch import Batcher, Full, Row
from .embeddings import embed
from .gate import Gate
from .inside import inside, wanted
from .protocol import Refused
from .words import Words


@dataclass(frozen=True)
class Limits:
    """What a request may cost, so that no client can take the machine."""
    batch: int = 16                     # answers computed together
    queue: int = 64                     # requests that wait; more are refused with 429
    body: int = 20 << 20                # bytes of a request
    pixels: int = 24_000_000            # of a request's pictures together
    seconds: float = 300                # for an answer, waiting included
    upload: float = 30                  # seconds for a request's body


class Service:
    """A model and what is under way with it. `name` is the model's id for clients."""

    def __init__(self, model, name, limits=Limits(), template=None, rescale=False):
        self.model, self.name, self.limits, self.template, self.rescale = model, name, limits, template, rescale
        self.created, self.reading = int(time.time()), 0
        self.chats = not isinstance(model, Relative)
        self.reader = ThreadPoolExecutor(1, "reader")       # one picture at a time is decoded, in bounded memory
        self.looker = ThreadPoolExecutor(1, "looker")       # and one look inside taken
        self.batcher = Batcher(model, limits.batch, limits.queue) if self.chats else None

    def close(self):
        self.reader.shutdown(cancel_futures=True)
        self.looker.shutdown(cancel_futures=True)
        if self.batcher:
            self.batcher.close()

    @asynccontextmanager
    async def place(self):
        """A place among the requests that are being read; Refused where there is none."""
        if self.reading >= self.limits.queue:
            raise Refused(429, f"{self.reading} requests are being read already; try again later", code="queue_full")
        self.reading += 1
        try:
            yield
        finally:
            self.reading -= 1

    async def read(self, function, *arguments, thread=None):
        """The result of work on pictures and texts, done in a thread of its own, so that the event loop goes on"""
        try:
            return await asyncio.get_running_loop().run_in_executor(thread or self.reader, function, *arguments)
        except generate.ContextFull as error:
            raise Refused(400, str(error), "messages", "context_length_exceeded") from None
        except UserError as error:
            raise Refused(400, str(error)) from None

    def inputs(self, asked):
        """The prompt of a protocol.Request, and how many tokens its answer may have"""
        pictures = [image.load(file, self.rescale) for file in asked.pictures]
        inputs = self.model.inputs(asked.question, pictures, asked.history, self.template)
        left = generate.context_left(self.model, inputs)
        return inputs, min(asked.limit or left, left)

    def application(self, key=None, local=True):
        """The Starlette application. key, local: see Gate."""
        @asynccontextmanager
        async def lifespan(_):
            yield
            self.close()
        routes = [Route("/v1/chat/completions", self.chat, methods=["POST"]),
                  Route("/v1/embeddings", self.embeddings, methods=["POST"]),
                  Route("/v1/look", self.look, methods=["POST"]), Route("/v1/world/scene", self.scene, methods=["POST"]),
                  Route("/v1/world", self.world), Route("/v1/world/atlas.png", self.atlas), Route("/", page.answer),
                  Route("/v1/models", self.models), Route("/v1/models/{id:path}", self.one_model),
                  Route("/health", self.health)]
        handlers = {Refused: refused, HTTPException: not_found, ClientDisconnect: nobody, Exception: broken}
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
        app.add_middleware(Gate, key=key, local=local)
        return app

    async def health(self, _):
        running, waiting = self.batcher.load() if self.batcher else (0, 0)
        return JSONResponse({"status": "ok", "model": self.name, "running": running, "waiting": waiting})

    def card(self):
        sees = bool(self.model.config.vision) if self.chats else isinstance(self.model, Eye)
        return protocol.card(self.name, self.created, self.chats, sees)

    async def models(self, _):
        return JSONResponse({"object": "list", "data": [self.card()]})

    async def one_model(self, request):
        self.check_name(request.path_params["id"])
        return JSONResponse(self.card())

    def check_name(self, name):
        if name != self.name:
            raise Refused(404, f"no model {short(name)}; there is {self.name!r}", "model", "model_not_found")

    async def embeddings(self, request):
        if self.chats:
            raise Refused(400, f"{self.name} answers questions; embeddings are those of a CLIP's or a SigLIP's folder")
        async with self.place():
            body = await self.body(request)
            return JSONResponse(await self.read(embed, self.model, self.name, body, self.limits.pixels))

    async def world(self, _):
        return JSONResponse(editor.world())

    async def atlas(self, _):
        return FileResponse(atlas.PATH)

    async def scene(self, request):
        async with self.place():
            return JSONResponse(await self.read(editor.scene, await self.json(request)))

    async def look(self, request):
        deadline, left = time.monotonic() + self.limits.seconds, threading.Event()

        def check():
            if left.is_set() or time.monotonic() > deadline:
                raise Refused(504, "the answer took longer than it may", code="timeout")
        async with self.place():
            body, asked, inputs, limit = await self.question(request)
            work = self.read(inside, self.model, self.name, inputs, limit, asked.sampling,
                             wanted(body, self.model.config.vocab_size), check, thread=self.looker)
            try:
                return JSONResponse(await unless_left(request, work))
            finally:
                left.set()

    async def question(self, request):
        """-> its body, the protocol.Request in it, the prompt, how many tokens the answer may have"""
        if not self.chats:
            raise Refused(400, f"{self.name} is {self.model.kind}, which answers no questions; ask /v1/embeddings")
        body = await self.body(request)
        asked = await self.read(protocol.request, body, self.limits.pixels)
        return body, asked, *await self.read(self.inputs, asked)

    async def chat(self, request):
        deadline = time.monotonic() + self.limits.seconds
        async with self.place():
            _, asked, inputs, limit = await self.question(request)
        asked.id = f"chatcmpl-{secrets.token_hex(12)}"
        talk = Talk(asyncio.get_running_loop(), Words(self.model.tokenizer, asked.stop), deadline)
        row = Row(inputs, limit, asked.sampling, talk.take, talk.end)
        try:
            self.batcher.submit(row)
        except Full as error:
            raise Refused(429, str(error), code="queue_full") from None
        if asked.stream:
            return Events(self.events(asked, row, talk), row)
        try:
            return JSONResponse(await unless_left(request, self.whole(asked, row, talk)))
        finally:
            row.gone = True

    async def whole(self, asked, row, talk):
        text = "".join([piece async for piece in talk.pieces()])
        return protocol.completion(asked, self.name, text, talk.tokens, talk.finish, talk.usage(row))

    async def events(self, asked, row, talk):
        """The answer as server-sent events"""
        def event(content):
            return f"data: {json.dumps(content)}\n\n"
        yield event(protocol.chunk(asked, self.name, {"role": "assistant", "content": ""}))
        try:
            async for piece in talk.pieces():
                yield event(protocol.chunk(asked, self.name, {"content": piece}))
        except Refused as error:
            yield event(error.body())
            return
        yield event(protocol.chunk(asked, self.name, protocol.found(talk.words.text, talk.tokens), talk.finish))
        if asked.usage:
            yield event(protocol.chunk(asked, self.name, {}) | {"choices": [], "usage": talk.usage(row)})
        yield "data: [DONE]\n\n"

    async def body(self, request):
        """The JSON object that a request carries, for this model. Raises Refused."""
        body = await self.json(request)
        self.check_name(body.get("model"))
        return body

    async def json(self, request):
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "the body must be JSON, with the header Content-Type: application/json")
        content = bytearray()

        async def receive():
            async for part in request.stream():
                content.extend(part)
                if len(content) > self.limits.body:
                    raise Refused(413, f"the request is larger than {self.limits.body:,} bytes", code="too_large")
        try:
            await asyncio.wait_for(receive(), self.limits.upload)
            body = json.loads(content)
        except asyncio.TimeoutError:
            raise Refused(408, f"the request did not arrive within {self.limits.upload:g} seconds") from None
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body is not JSON ({error})") from None
        if not isinstance(body, dict):
            raise Refused(400, "the body must be a JSON object")
        return body


class Talk:
    """What the model's thread says about a Row, for the event loop"""

    def __init__(self, loop, words, deadline):
        self.loop, self.words, self.deadline = loop, words, deadline
        self.queue, self.tokens, self.finish = asyncio.Queue(), [], None

    def take(self, token):
        """A token has come -> whether the answer goes on; in the model's thread, as `end`"""
        self.tokens.append(token)
        self._tell(self.words.add(token))
        return not self.words.stopped

    def end(self, reason):
        self._tell(reason if isinstance(reason, Exception) else self.words.flush())
        self.finish = reason
        self._tell(None)

    def _tell(self, said):
        with suppress(RuntimeError):                        # the loop is closed, nobody listens
            self.loop.call_soon_threadsafe(self.queue.put_nowait, said)

    async def pieces(self):
        """The answer's text as it comes. Raises Refused where it fails or takes too long."""
        while True:
            try:
                said = await asyncio.wait_for(self.queue.get(), max(0.0, self.deadline - time.monotonic()))
            except asyncio.TimeoutError:
                raise Refused(504, "the answer took longer than it may", code="timeout") from None
            if said is None:
                return
            if isinstance(said, UserError):
                raise Refused(500, str(said))
            if isinstance(said, Exception):
                raise Refused(500, f"the model failed ({type(said).__name__})")
            if said:
                yield said

    def usage(self, row):
        return protocol.usage(row.inputs.ids.shape[1], len(self.tokens))


class Events(StreamingResponse):
    """A stream of events for a row, which is gone when the stream ends, in whatever way."""

    def __init__(self, events, row):
        super().__init__(events, media_type="text/event-stream",
                         headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self.row = row

    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        finally:                                            # nothing awaited: it may have been cancelled
            self.row.gone = True


async def unless_left(request, work):
    """The result of `work`, which is cancelled when the client leaves: ClientDisconnect then."""
    async def left():
        while (await request.receive())["type"] != "http.disconnect":
            pass
    work, left = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        work.cancel()
        left.cancel()


async def refused(_, error):
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.body(), error.status, headers)


async def not_found(request, error):
    message = f"no {request.method} {request.url.path} here"
    return JSONResponse(Refused(error.status_code, message, code="unknown_url").body(), error.status_code, error.headers)


async def nobody(*_):
    return Response(status_code=499)                        # as nginx notes a client that has left


async def broken(*_):
    """Starlette then logs the traceback; the client is told nothing of it."""
    return JSONResponse(Refused(500, "the server failed; its log says why").body(), 500)
