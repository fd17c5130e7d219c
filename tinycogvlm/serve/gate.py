"""Who may come in: a key, if there is one, and on a loopback address only requests that were meant for it."""
import hmac
import re

from starlette.responses import JSONResponse

from .protocol import Refused

# What a browser calls this machine. A page of another site can make its own name resolve to 127.0.0.1 (DNS rebinding)
# and would then read the answers; but its requests carry that name.
LOCAL = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)

OPEN = ("/", "/health")                                     # paths that need no key


class Gate:
    """ASGI middleware. key: what clients send as their API key, None for any. local: whether the Host must be LOCAL.

    The page itself says nothing of the model, and needs no key; what it asks does.
    """

    def __init__(self, app, key=None, local=True):
        self.app, self.key, self.local = app, key, local

    async def __call__(self, scope, receive, send):
        refused = self.refused(scope) if scope["type"] == "http" else None
        app = self.app if refused is None else JSONResponse(refused.body(), refused.status)
        await app(scope, receive, send)

    def refused(self, scope):
        """Why a request may not come in, a Refused, or None"""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self.local and not LOCAL.fullmatch(host):
            return Refused(403, "the Host header must be localhost or 127.0.0.1: this server is for its own machine")
        given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if self.key and scope["path"] not in OPEN and not hmac.compare_digest(given, self.key.encode()):
            return Refused(401, "the API key is wrong or missing", code="invalid_api_key")
        return None
