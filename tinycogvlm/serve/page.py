"""The page: one static file, and the policy that lets a browser run this file's script and nothing else."""
import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import HTMLResponse


@cache
def page():
    """(its HTML, the headers it is sent with)

    The Content-Security-Policy names the hashes of the file's one script and one style sheet: nothing that an answer or
    a file's name could smuggle into the page is run, nothing is loaded from elsewhere, no other site can frame it.
    """
    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    script, style = (f"'sha256-{digest(re.search(f'<{tag}>(.*?)</{tag}>', text, re.DOTALL)[1])}'" for tag in ("script", "style"))
    policy = (f"default-src 'none'; script-src {script}; style-src {style}; img-src 'self' data: blob:; connect-src 'self'; "
              "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    return text, {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
                  "Cache-Control": "no-cache"}


def digest(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


async def answer(_):
    text, headers = page()
    return HTMLResponse(text, headers=headers)
