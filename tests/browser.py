"""A headless Chromium, driven through its DevTools protocol over two pipes: no package, no driver, no port.

    with Browser() as browser:
        browser.open("http://127.0.0.1:8000/")
        browser.run("document.title")                       # the value of a JavaScript expression
"""
import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import count

from PIL import Image

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
# Chromium reads its pipe as descriptor 3 and writes as 4.
BEGIN = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"


class Browser:
    """console: what the page said there, its errors too."""

    def __init__(self, width=1280, height=900, dark=False):
        (reads, self.to), (self.of, writes) = os.pipe(), os.pipe()
        self.home, self.numbers, self.unread, self.console = tempfile.TemporaryDirectory(ignore_cleanup_errors=True), count(), b"", []
        options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={self.home.name}", "--no-sandbox",
                   "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reads, writes)]
        self.process = subprocess.Popen([sys.executable, "-c", BEGIN, *map(str, ends), FOUND, *options, "about:blank"],
                                        pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (reads, writes, *ends):
            os.close(end)
        pages = self.call("Target.getTargets", session=None)["targetInfos"]
        page = next(page["targetId"] for page in pages if page["type"] == "page")
        self.session = self.call("Target.attachToTarget", session=None, targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.size(width, height, dark)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.call("Browser.close", session=None)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)
        os.close(self.to)
        os.close(self.of)
        self.home.cleanup()

    def call(self, method, session="page", **params):
        """The result of a command of the protocol"""
        message = {"id": next(self.numbers), "method": method, "params": params}
        if session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            said = self.read()
            if said.get("id") == message["id"]:
                assert "error" not in said, said["error"]
                return said["result"]

    def read(self):
        """The next message of Chromium; what the page says on its console is kept."""
        deadline = time.monotonic() + 60
        while b"\0" not in self.unread:
            ready, _, _ = select.select([self.of], [], [], max(0, deadline - time.monotonic()))
            assert ready, "Chromium says nothing"
            part = os.read(self.of, 1 << 20)
            assert part, "Chromium has ended"
            self.unread += part
        message, _, self.unread = self.unread.partition(b"\0")
        said = json.loads(message)
        if said.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.console.append(said["params"])
        return said

    def size(self, width, height, dark=False, scale=1):
        """The window's size and what the person prefers"""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, {"name": "prefers-reduced-motion", "value": "reduce"}])

    def open(self, address):
        self.call("Page.navigate", url=address)

    def run(self, expression):
        """The value of an expression, awaited"""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression, seconds=60):
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(expression):
            assert time.monotonic() < deadline, f"never: {expression}; the console: {self.console}"
            time.sleep(0.03)

    def box(self, selector):
        """(x0, y0, x1, y1) of an element, in pixels of the window, once it has been scrolled into view"""
        return self.run(f"(() => {{ const node = document.querySelector({json.dumps(selector)});"
                        "node.scrollIntoView({block: 'nearest'}); const box = node.getBoundingClientRect();"
                        "return [box.left, box.top, box.right, box.bottom] })()")

    def click(self, selector, at=(0.5, 0.5)):
        """The mouse's left button on an element, at shares of its width and height"""
        x0, y0, x1, y1 = self.box(selector)
        place = {"x": x0 + at[0] * (x1 - x0), "y": y0 + at[1] * (y1 - y0), "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **place)

    def drag(self, selector, right, down):
        """The mouse pressed on an element, moved so many pixels in two steps, and released"""
        x0, y0, x1, y1 = self.box(selector)
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        for kind, share in ("mousePressed", 0), ("mouseMoved", 0.5), ("mouseMoved", 1), ("mouseReleased", 1):
            self.call("Input.dispatchMouseEvent", type=kind, x=x + share * right, y=y + share * down, button="left", clickCount=1)

    def trace(self, selector, points):
        """The mouse pressed at the first point, moved along the others, and released at the last; in shares of an element"""
        x0, y0, x1, y1 = self.box(selector)
        points = [(x0 + x * (x1 - x0), y0 + y * (y1 - y0)) for x, y in points]
        for kind, (x, y) in ("mousePressed", points[0]), *(("mouseMoved", point) for point in points[1:]), ("mouseReleased", points[-1]):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=int(kind != "mouseReleased"), clickCount=1)

    def drop(self, selector, name, content):
        """A file dropped on an element, as the page sees it"""
        self.run(f"(() => {{ const bytes = Uint8Array.from(atob({json.dumps(base64.b64encode(content).decode())}), byte => byte.charCodeAt(0));"
                 f"const given = new DataTransfer(); given.items.add(new File([bytes], {json.dumps(name)}));"
                 f"document.querySelector({json.dumps(selector)}).dispatchEvent(new DragEvent('drop', "
                 "{dataTransfer: given, bubbles: true, cancelable: true})) })()")

    def press(self, *keys):
        for key in keys:
            text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
            code = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}.get(key, 0)
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def screenshot(self):
        """The window as a Pillow image"""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
