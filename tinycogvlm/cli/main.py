"""Entry point of the command line: read the options, run the command's file, turn every problem into an exit code.

Exit codes: 0 success, 1 the command failed, 2 wrong usage, 130 Ctrl-C.
"""
import signal
import warnings
from contextlib import contextmanager, nullcontext
from importlib import import_module

from ..errors import UserError
from .say import flush_streams, open_streams, progress, say, say_error


def main(argv=None):
    """Run one command line -> exit code"""
    open_streams()
    code = run(argv)
    lost = flush_streams()
    if lost and code == 0:                                  # else what went wrong first has been said
        if not isinstance(lost, BrokenPipeError):
            say_error(sentence(lost))
        return 1
    return code


def run(argv):
    """Parse the options and run the command -> exit code; what went wrong has been said."""
    advice = ""
    try:
        with ended_by_ctrl_c() if argv is None else nullcontext():
            from . import options
            arguments = options.parser().parse_args(argv)
            if arguments.command in ("train", "ablate"):    # before NumPy is imported
                from ..train.loop.process import keep_freed_memory, one_blas_thread
                one_blas_thread()
                keep_freed_memory()
            command = import_module(f".{arguments.command}", __package__)
        if hasattr(arguments, "stream"):
            advice = ("; a smaller --image-size or --max-new-tokens needs less" if arguments.stream else
                      "; with --stream only a few blocks of the model are in memory")
        with warnings.catch_warnings():                     # numbers that overflow are told in a sentence of ours
            warnings.simplefilter("ignore", RuntimeWarning)
            return command.run(arguments)
    except SystemExit as stop:                              # --help and --version
        return stop.code
    except UserError as error:
        say_error(error)
        return error.exit_code
    except BrokenPipeError:                                 # as in `tinycogvlm ... | head`
        return 1
    except OSError as error:
        say_error(sentence(error))
        return 1
    except MemoryError:
        say_error(f"not enough memory{advice}")
        return 1
    except (ImportError, SystemError) as error:             # NumPy's message has 20 lines, of which the last tells why
        reason = str(error).strip().rpartition("\n")[2]
        say_error(f"a package cannot be loaded ({reason}): the installation is incomplete, or memory is limited")
        return 1
    except KeyboardInterrupt as stop:
        if str(stop):                                       # training says how to go on
            say(stop)
        else:
            progress("")                                    # after the terminal's ^C
        return 130


@contextmanager
def ended_by_ctrl_c():
    """Let Ctrl-C end the process at once while it imports: nothing can be lost yet, and packages in C take a
    KeyboardInterrupt for a broken installation. A process that ignores Ctrl-C, as with nohup, goes on ignoring it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def sentence(error):
    """An OSError in words"""
    return f"{error.filename or 'input or output'}: {error.strerror or error}"
