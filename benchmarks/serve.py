"""How many clients `tinycogvlm serve` answers: requests a second and time to the first token, one at a time and together.

    python benchmarks/serve.py                       1, 8 and 32 clients in closed loops: two minutes
    python benchmarks/serve.py --seconds 2           a quick look
    python benchmarks/serve.py --load 1000           mixed requests, good and bad, and what they leave in memory

Two servers, one of which answers one request at a time and the other 16 together, are asked by turns, so that their
ratio means something where speeds do not. Every client asks about a picture, streams the answer, checks it against the
model's own, and asks again. Two BLAS threads, or OPENBLAS_NUM_THREADS.
"""
import argparse
import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from base64 import b64encode
from contextlib import ExitStack, contextmanager
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")          # read once, when NumPy is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tinycogvlm import load

PARK = ROOT / "lessons" / "images" / "park.png"
QUESTIONS = ("What is the background?", "Where is the dog?", "How many things are there?", "Describe the picture.")
CLIENTS, TOGETHER = (1, 8, 32), (1, 16)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6, help="of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--load", type=int, metavar="N", help="send N mixed requests instead")
    options = parser.parse_args(arguments)
    model = load()
    wanted = {question: model.ask(PARK, question).text for question in QUESTIONS}
    if options.load:
        told, memory = mixed(options.load, wanted)
        if wrong := [each for each in told if each not in EXPECTED]:
            raise SystemExit(f"not as they should be: {wrong}")
        if memory[-1] - memory[len(memory) // 2] > GROWTH:
            raise SystemExit(f"memory grew from {memory[len(memory) // 2]:.0f} to {memory[-1]:.0f} MB")
        return
    with ExitStack() as stack:
        ports = {batch: stack.enter_context(server(batch))[0] for batch in TOGETHER}
        turns = [{(clients, batch): closed_loop(ports[batch], clients, options.seconds, wanted)
                  for clients in CLIENTS for batch in TOGETHER} for _ in range(options.turns)]
    print("\n".join(table(turns)))


def table(turns):
    """The lines of a table. turns: [{(clients, together): (requests a second, [seconds to the first word])}]"""
    yield "| clients | together | requests/s | as many as one at a time | first token, median | 95 of 100 within |"
    yield "|---|---|---|---|---|---|"
    for clients, batch in turns[0]:
        rates, firsts = zip(*[turn[clients, batch] for turn in turns])
        ratios = [turn[clients, batch][0] / turn[clients, 1][0] for turn in turns]
        first = [seconds for each in firsts for seconds in each]
        late = sorted(first)[(95 * len(first) - 1) // 100]
        yield (f"| {clients} | {batch} | {statistics.median(rates):.1f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} "
               f"to {max(ratios):.2f}) | {statistics.median(first) * 1000:.0f} ms | {late * 1000:.0f} ms |")


@contextmanager
def server(batch):
    """(port, process id) of a server of the bundled model that answers so many together"""
    command = [sys.executable, "-m", "tinycogvlm", "serve", "--port", "0", "--batch", str(batch)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        for line in process.stderr:
            if found := re.search(r":(\d+)/v1", line):
                break
        time.sleep(1)
        yield int(found[1]), process.pid
    finally:
        process.terminate()
        process.wait()


def closed_loop(port, clients, seconds, wanted):
    """-> (requests a second, [seconds to the first word of each])"""
    first, end = [], time.perf_counter() + seconds
    started = time.perf_counter()

    def client(seed):
        chosen = random.Random(seed)
        while time.perf_counter() < end:
            question = chosen.choice(QUESTIONS)
            text, waited = ask(port, question)
            if text != wanted[question]:
                raise AssertionError(f"{question} {text!r}, not {wanted[question]!r}")
            first.append(waited)
    run_together([lambda i=i: client(i) for i in range(clients)])
    return len(first) / (time.perf_counter() - started), first


def run_together(tasks):
    """Each in a thread; the first failure is raised."""
    failures = []

    def guarded(task):
        try:
            task()
        except BaseException as error:
            failures.append(error)
    threads = [threading.Thread(target=guarded, args=[task]) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def question_body(question, picture=None):
    address = "data:image/png;base64," + b64encode(PARK.read_bytes() if picture is None else picture).decode()
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question}]
    return json.dumps({"model": "tiny", "stream": True, "messages": [{"role": "user", "content": content}]}).encode()


def posted(port, body):
    """The answer's status and its open stream"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    return connection.getresponse()


def ask(port, question, pause=0.0):
    """-> (the streamed text, seconds to its first piece); pause: seconds before each event is read"""
    start, pieces, waited = time.perf_counter(), [], None
    with posted(port, question_body(question)) as answer:
        if answer.status != 200:
            raise AssertionError(f"status {answer.status}: {answer.read()!r}")
        while (line := answer.readline()) != b"data: [DONE]\n":
            if line.startswith(b"data: "):
                time.sleep(pause)
                piece = json.loads(line[6:])["choices"][0]["delta"].get("content")
                if piece:
                    waited = waited or time.perf_counter() - start
                    pieces.append(piece)
    return "".join(pieces), waited


# {(kind of request, what became of it)}
EXPECTED = {("good", "right"), ("slow reader", "right"), ("early leaver", "left"), ("huge picture", "refused with 400"),
            ("broken JSON", "refused with 400"), ("21 MB", "refused with 413")}
GROWTH = 32                                                 # MB in the second half of the requests, at most


def mixed(count, wanted):
    """Good clients, slow readers, early leavers, huge pictures and broken JSON, 24 at a time

    -> {(kind, outcome): how many}, [megabytes of memory: before, ten times meanwhile, at the end]
    """
    tasks, lock, told = iter(range(count)), threading.Lock(), {}
    huge = huge_picture()

    def good(pause=0.0):
        question = random.choice(QUESTIONS)
        text, _ = ask(port, question, pause)
        return "right" if text == wanted[question] else f"WRONG {text!r}"

    def slow():
        return good(0.05)

    def leaver():
        answer = posted(port, question_body("Describe the picture."))
        answer.readline()
        answer.close()
        return "left"

    def refused(body):
        with posted(port, body) as answer:
            return f"refused with {answer.status}"
    kinds = (good, good, good, slow, leaver, lambda: refused(question_body("What?", huge)), lambda: refused(b"{"),
             lambda: refused(b" " * (21 << 20)))
    names = ("good", "good", "good", "slow reader", "early leaver", "huge picture", "broken JSON", "21 MB")

    def client():
        while True:
            with lock:
                i = next(tasks, None)
            if i is None:
                return
            try:
                outcome = kinds[i % len(kinds)]()
            except (ConnectionError, http.client.HTTPException) as error:
                outcome = type(error).__name__
            with lock:
                key = names[i % len(kinds)], outcome
                told[key] = told.get(key, 0) + 1
                if i % max(1, count // 10) == 0:
                    memory.append(resident(process))
                    print(f"after {i:5}: {memory[-1]:.0f} MB", flush=True)
    with server(16) as (port, process):
        memory = [resident(process)]
        run_together([client] * 24)
        time.sleep(2)
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/health")
        memory.append(resident(process))
        print(f"before {memory[0]:.0f} MB, at the end {memory[-1]:.0f} MB, {connection.getresponse().read().decode()}")
    for (kind, outcome), times in sorted(told.items()):
        print(f"{kind}: {outcome}, {times} times")
    return told, memory


def huge_picture():
    """A PNG of 100 million pixels in 100 kB"""
    import io

    from PIL import Image
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    return file.getvalue()


def resident(process):
    """Megabytes of memory that a process of Linux holds"""
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


if __name__ == "__main__":
    main()
