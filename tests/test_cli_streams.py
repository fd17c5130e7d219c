"""What stands between a person and the commands: the standard streams, terminals, locales, names and Ctrl-C."""
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from toy_model import ANSWER

from tinycogvlm.cli import main, say
from tinycogvlm.errors import UserError
from tinycogvlm.inputs import prompt
from tinycogvlm.kernels.runner import build

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"


def as_module(*arguments, typed=None, stdout=subprocess.PIPE, stderr=subprocess.PIPE, redirect="", limit="",
              **environment):
    """python -m tinycogvlm ... -> CompletedProcess; `redirect` and `limit` are in the shell's words, such as >&-"""
    command = [sys.executable, "-m", "tinycogvlm", *map(str, arguments)]
    if redirect or limit:
        command = ["sh", "-c", f'{limit} exec "$@" {redirect}', "sh", *command]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    how = {"stdin": subprocess.DEVNULL} if typed is None else {"input": typed}
    return subprocess.run(command, stdout=stdout, stderr=stderr, timeout=60, **how,
                          env=buffered | {"PYTHONPATH": str(ROOT)} | environment)


def every_command(toy, picture):
    """{name: (a command line that works, its exit code)}"""
    weights = "--weights", toy
    return {"ask": (("ask", picture, "What?", *weights), 0), "caption": (("caption", picture, picture, *weights), 0),
            "ask --json": (("ask", picture, "What?", "--json", *weights), 0),
            "ground": (("ground", picture, "star", *weights), 0),
            "chat": (("chat", picture, *weights), 0), "scene": (("scene", "--list"), 0),
            "info": (("info", toy), 0), "verify": (("verify", GOLDEN / "v1_tiny"), 0),
            "learn": (("learn",), 0), "train": (("train", "plot", toy), 1), "eval": (("eval", "--weights", picture), 1),
            "kernel": (("kernel", "profile", "none.cu", "--grid", "1", "--block", "1"), 1),
            "--help": (("--help",), 0), "--version": (("--version",), 0), "usage": (("ask",), 2)}


@pytest.mark.parametrize("name", list(every_command("", "")))
def test_streams_that_are_none(toy, picture, monkeypatch, capfd, name):
    """As Python has them under pythonw, and where they were closed: the exit code and what is still open are right."""
    arguments, code = every_command(toy, picture)[name]
    arguments = list(map(str, arguments))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main.main(arguments) == code
    out, err = capfd.readouterr()
    for closed in ["stdin"], ["stdout"], ["stderr"], ["stdin", "stdout", "stderr"]:
        with monkeypatch.context() as patch:
            for stream in closed:
                patch.setattr(sys, stream, None)
            assert main.main(arguments) == code, closed
        said = capfd.readouterr()
        if name != "ask --json":                            # its seconds differ
            assert said == ("" if "stdout" in closed else out, "" if "stderr" in closed else err)


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(toy, picture, closed):
    """The same for real, as cron and systemd start programs. No file that is opened gets the number of a stream."""
    for name in "ask", "chat", "train":
        arguments, code = every_command(toy, picture)[name]
        done = as_module(*arguments, redirect=closed)
        assert (done.returncode, b"Traceback" in done.stderr) == (code, False)
    done = as_module("ask", picture, "What is there?", "--weights", toy, "--out", f"{picture}.jpg", redirect=closed)
    lines = {"<&-": (f"{ANSWER}\n", f"{picture}.jpg: 1 box drawn\n"), ">&-": ("", f"{picture}.jpg: 1 box drawn\n"),
             "2>&-": (f"{ANSWER}\n", "")}
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, *lines.get(closed, ("", "")))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_streams_that_are_full(toy, picture):
    ask = "ask", picture, "What is there?", "--weights", toy
    for arguments in ask, ("scene",):                       # one flushes as it goes, the other at its end
        done = as_module(*arguments, redirect="> /dev/full")
        assert (done.returncode, done.stderr) == (1, b"tinycogvlm: input or output: No space left on device\n")
    done = as_module(*ask, "--out", f"{picture}.jpg", redirect="2> /dev/full")
    assert (done.returncode, done.stdout) == (0, f"{ANSWER}\n".encode()) and Path(f"{picture}.jpg").exists()


@pytest.mark.parametrize("arguments", ["info {toy}", "--help", "--version", "ask {picture} What? --weights {toy}",
                                       "caption {picture} {picture} --json --weights {toy}"])
def test_a_reader_that_leaves(toy, picture, arguments):
    """`tinycogvlm info ... | head -0`"""
    reader, writer = os.pipe()
    os.close(reader)
    done = as_module(*arguments.format(toy=toy, picture=picture).split(), stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_no_control_characters_reach_a_terminal(monkeypatch, toy, tmp_path):
    """A model, a file's name or an error may hold escape sequences: for the title, the clipboard, the cursor."""
    hostile = "\x1b]52;c;eA==\x07 a\tb\nc\r\x00\x7f\x9b2J \u00e9"
    harmless = "\ufffd]52;c;eA==\ufffd a\tb\nc\ufffd\ufffd\ufffd\ufffd2J \u00e9"
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, Terminal())
    say.echo(hostile)
    say.show(hostile, [])
    say.say(hostile)
    say.progress(hostile)
    say.say_error(hostile)
    assert sys.stdout.getvalue() == f"{harmless}\n" * 2
    assert sys.stderr.getvalue() == f"{harmless}\n" * 2 + f"tinycogvlm: {harmless}\n"
    assert main.main(["info", "\x1b[2J"]) == 1 and main.main(["ask", "\x1b[2J"]) == 2
    assert "\x1b" not in sys.stderr.getvalue()
    for stream in ("stdout", "stderr"):                     # a file or a pipe gets every character
        monkeypatch.setattr(sys, stream, io.StringIO())
    say.echo(hostile)
    say.say(hostile)
    assert sys.stdout.getvalue() == sys.stderr.getvalue() == f"{hostile}\n"


def test_an_answer_is_a_line_if_it_was_begun(capsys):
    def pieces(*words, end=None):
        yield from words
        if end:
            raise end
    said = []
    say.show(pieces("a", "b"), said, "x.png: ")
    say.show(pieces(), said := [], "x.png: ")
    assert (said, capsys.readouterr().out) == ([], "x.png: ab\nx.png: \n")
    for words, printed in (("a", "x.png: a\n"), ("", "")):
        for end in KeyboardInterrupt, UserError, BrokenPipeError:
            with pytest.raises(end):
                say.show(pieces(*words, end=end), said := [], "x.png: ")
            assert (said, capsys.readouterr().out) == (list(words), printed)


def test_a_long_message_is_cut_in_its_middle(capsys):
    say.say_error("a" * 5000 + "z" * 5000)
    message = capsys.readouterr().err
    assert message == "tinycogvlm: " + "a" * 1000 + " ... (8,000 characters left out) ... " + "z" * 1000 + "\n"
    say.say_error("a" * 2000)
    assert capsys.readouterr().err == "tinycogvlm: " + "a" * 2000 + "\n"


@pytest.mark.parametrize("option", ["--weights", "--lora", "--tokenizer", "--out"])
def test_empty_names_are_refused(option, capsys):
    """What a shell makes of a variable that is not set; it must not mean the bundled model."""
    assert main.main(["ask", "x.png", "What?", option, ""]) == 2
    assert capsys.readouterr().err == (f"tinycogvlm: argument {option}: the name is empty; is a variable not set?; "
                   "see tinycogvlm ask --help\n")


@pytest.mark.parametrize("arguments", [
    ["ask", "", "x"], ["caption", ""], ["caption", "x", ""], ["ground", "", "x"], ["chat", ""], ["info", ""],
    ["chat", "--weights", ""], ["verify", ""], ["scene", "--out", ""], ["eval", "--weights", ""],
    ["eval", "--lora", ""], ["eval", "--gallery", ""], ["train", "plot", ""], ["train", "plot", "x", "--out", ""],
    ["train", "sft", "--out", ""], ["train", "lora", "--data", ""], ["train", "lora", "--data", "x", "--weights", ""],
    ["train", "merge", "", "--out", "x"], ["train", "merge", "x", "--out", ""],
    ["train", "unmerge", "x", "--weights", "", "--out", "x"], ["learn", "start", ""], ["learn", "check", ""],
    ["kernel", "step", "", "--grid", "1", "--block", "1"]])
def test_no_command_takes_an_empty_name(arguments, capsys):
    assert main.main(arguments) == 2 and "the name is empty" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, what", [(["ask", "x.png", ""], "QUESTION"), (["ask", "-", " "], "QUESTION"),
                                             (["ground", "x.png", ""], "PHRASE")])
def test_nor_no_words(arguments, what, capsys):
    assert main.main(arguments) == 2
    assert f"argument {what}: it has no words; is a variable not set?" in capsys.readouterr().err


# What is typed

LOCALES = {"UTF-8": {}, "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}}


@pytest.mark.skipif(os.name != "posix", reason="POSIX locales")
@pytest.mark.parametrize("locale", LOCALES)
def test_letters_arrive_in_every_locale(toy, locale):
    """A question has one token for each byte here; the same is counted, whatever Python thinks of the locale."""
    question = "caf\u00e9 \u2603?"
    count = 1 + len(prompt.text("vicuna", question).encode())
    done = as_module("ask", "-", question, "--json", "--weights", toy, **LOCALES[locale])
    assert json.loads(done.stdout)["tokens_in"] == count
    done = as_module("chat", "--weights", toy, typed=f"/{question}\n".encode(), **LOCALES[locale])
    assert done.stderr.startswith(b"tinycogvlm: no command /caf") and b"\xef\xbf\xbd" not in done.stderr


@pytest.mark.parametrize("locale", LOCALES)
def test_bytes_that_are_not_utf8_are_refused(toy, locale):
    done = as_module("chat", "--weights", toy, typed=b"caf\xe9?\nGo?\n", **LOCALES[locale])
    assert (done.returncode, done.stdout.decode()) == (1, f"{ANSWER}\n")
    assert done.stderr == b"tinycogvlm: 'caf\\udce9?' is not UTF-8 text\n"
    done = as_module("ask", "-", b"caf\xe9".decode(errors="surrogateescape"), "--weights", toy, **LOCALES[locale])
    assert done.returncode == 2 and b"argument QUESTION: 'caf\\udce9' is not UTF-8 text" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_json_is_utf8_whatever_a_name_is(toy, picture, tmp_path, capsys):
    """A file's name is bytes. Python has a surrogate for each that is not UTF-8; JSON must not have it."""
    name = os.fsdecode(bytes(tmp_path) + b"/\xe9")
    shutil.copytree(toy, name)
    shutil.copy(picture, f"{name}.png")
    assert main.main(["info", name, "--json"]) == 0
    assert main.main(["caption", f"{name}.png", "--json", "--weights", name]) == 0
    info, caption = map(json.loads, capsys.readouterr().out.splitlines())
    assert info["folder"] == f"{tmp_path}/\ufffd" and caption["image"] == f"{tmp_path}/\ufffd.png"


def test_a_console_without_a_letter(toy):
    """It shows ? in an answer, an escape in an error; nothing is lost."""
    done = as_module("chat", "--weights", toy, typed="/\u00e9\nGo\n".encode(), PYTHONIOENCODING="ascii")
    assert done.returncode == 1 and done.stdout.decode().splitlines() == [ANSWER]
    assert b"no command /\\xe9\n" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("command, chosen, threads", [("train plot none", None, "1"), ("train plot none", "4", None),
                                                      ("info none", None, None)])
def test_trainings_have_one_thread_for_each_product(command, chosen, threads):
    """NumPy's matrix library reads the number when NumPy is imported: it must stand in the environment by then."""
    code = f"""if True:
        import os, sys
        class Finder:
            def find_spec(self, name, *_):
                if name == "numpy":
                    print(os.environ.get("OPENBLAS_NUM_THREADS"))
        sys.meta_path.insert(0, Finder())
        from tinycogvlm.cli.main import main
        main({command.split()})"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {"OMP_NUM_THREADS": chosen} if chosen else {}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.stdout == f"{threads}\n"


# Ctrl-C and small machines

@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_while_importing_ends_the_process_without_a_word(ignored):
    """It arrives when NumPy is looked for, where most of the start's time goes. Under nohup it stays ignored."""
    code = f"""if True:
        import os, signal, sys
        class Finder:
            def find_spec(self, name, *_):
                if name == "numpy":
                    os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Finder())
        signal.signal(signal.SIGINT, signal.SIG_IGN if {ignored} else signal.default_int_handler)
        sys.argv = ["tinycogvlm", "info", "none"]
        from tinycogvlm.cli.main import main
        sys.exit(main())"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, cwd=ROOT)
    if ignored:
        assert done.returncode == 1 and done.stderr.startswith(b"tinycogvlm: none")
    else:
        assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")    # a shell calls that 130


def at_a_terminal(*arguments, typed=()):
    """The command in a terminal of its own; each of `typed` when it asks for a line -> (exit code, the screen)"""
    pty = pytest.importorskip("pty")
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(PYTHONPATH=str(ROOT), TERM="dumb")
        signal.signal(signal.SIGINT, signal.SIG_DFL)        # a shell's background jobs ignore it, and so would this one
        os.execv(sys.executable, [sys.executable, "-m", "tinycogvlm", *map(str, arguments)])
    screen, typed = b"", list(typed)
    with suppress(OSError):                                 # Linux: EIO where the other side has ended
        while select.select([terminal], [], [], 60)[0] and (new := os.read(terminal, 1024)):
            screen += new
            if typed and screen.endswith(b"> "):
                time.sleep(0.2)                             # a Ctrl-C between the prompt and Python's wait is not heard
                os.write(terminal, typed.pop(0))
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), screen.decode()


def test_a_conversation_at_a_terminal(toy, picture):
    typed = b"Where?\n", b"half a ques\x03", b"Go\n", b"\x04"
    code, screen = at_a_terminal("chat", picture, "--weights", toy, typed=typed)
    assert code == 0 and screen.count(ANSWER) == 2 and "/help lists the commands" in screen
    assert "Traceback" not in screen and "half a quesGo" not in screen


@pytest.mark.skipif(bool(build.cpu_runner()), reason=str(build.cpu_runner()))
def test_ctrl_c_where_the_stepper_waits(tmp_path):
    """The kernel is in the middle of its run then, and its machine has handlers of its own."""
    (tmp_path / "a.cu").write_text("__global__ void a(int* y) { __syncthreads(); y[0] = 1; __syncthreads(); }")
    step = "kernel", "step", tmp_path / "a.cu", "1", "--grid", "1", "--block", "1"
    assert at_a_terminal(*step, typed=[b"\n", b"\x03"])[0] == 130
    code, screen = at_a_terminal(*step, typed=[b"\n", b"\n"])
    assert code == 0 and "the kernel has ended" in screen


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("megabytes", [60, 90, 105, 110, 125])
def test_too_little_memory_to_start(toy, megabytes):
    done = as_module("info", toy, limit=f"ulimit -v {megabytes}000;", OPENBLAS_NUM_THREADS="1")
    assert done.returncode in (0, 1) and b"Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 1
