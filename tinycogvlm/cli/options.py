"""The command line: every command, its options, and what they take."""
import argparse
import re
from pathlib import Path

from ..errors import UsageError

# Written out here so that --help does not have to import the model; tests compare them with the modules they stand for.
TEMPLATES = ("base", "vqa", "chat", "vicuna")
DTYPES = ("float64", "float32", "float16", "bfloat16", "int8", "int4")
ROTARY = ("auto", "stored", "stored-2byte", "base")
LEARNER = "my-cogvlm"


class Parser(argparse.ArgumentParser):
    """Wrong usage is a UsageError like any other problem, in one sentence."""

    def error(self, message):
        raise UsageError(f"{message}; see {self.prog} --help")


def parser():
    """The parser of all commands; the parsed arguments' `command` is the name of the file that runs it."""
    top = Parser(prog="tinycogvlm", description="Ask CogVLM about pictures.")
    top.add_argument("--version", action=Version, nargs=0, dest=argparse.SUPPRESS, help="print the version")
    added_to = top.add_subparsers(metavar="COMMAND", required=True, dest="command")

    def command(name, description, *parents):
        return added_to.add_parser(name, help=description, description=description, parents=parents)

    as_json = Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON, sizes and boxes in plain numbers")
    model = model_options()

    added = command("ask", "answer a question about a picture", model, as_json)
    added.add_argument("image", metavar="IMAGE", help="the picture's file, or - to ask without a picture")
    added.add_argument("question", metavar="QUESTION")
    added.add_argument("--out", metavar="FILE", help="draw the answer's boxes on the picture")
    added.add_argument("--mine", action="store_true", help=f"through your own functions, those in {LEARNER}")

    added = command("caption", "describe pictures, a line each", model, as_json)
    added.add_argument("images", metavar="IMAGE", nargs="+")

    added = command("ground", "find something in a picture", model, as_json)
    added.add_argument("image", metavar="IMAGE")
    added.add_argument("phrase", metavar="PHRASE", help="what to find, such as 'the red star'")
    added.add_argument("--out", metavar="FILE", help="draw its box on the picture")

    added = command("chat", "talk, about a picture or about none", model)
    added.add_argument("image", metavar="IMAGE", nargs="?")

    learning(command("learn", "the course: write every part of the model yourself; without STEP: where you are"))

    added = command("scene", "draw a scene such as those in training, and print what is true of it", as_json)
    added.add_argument("--seed", metavar="N", type=whole(0), default=0, help="which scene (default: 0)")
    added.add_argument("--things", metavar="N", type=whole(1, 6), help="1 to 6 (default: 1 to 4, by chance)")
    added.add_argument("--split", choices=("train", "check", "test", "combinations", "sizes"), default="test",
                       help="train, or what training never sees (default: test)")
    added.add_argument("--size", metavar="PIXELS", type=whole(28, 1344), default=112,
                       help="a side of the picture, 28 to 1344 (default: 112)")
    added.add_argument("--out", metavar="FILE", help="write the picture")
    added.add_argument("--list", action="store_true", help="print the world's kinds, colours, shapes and backgrounds")

    added = command("eval", "ask about scenes never seen in training, and count the right answers", as_json)
    added.add_argument("--weights", metavar="FOLDER", help="a CogVLM folder (default: the model that comes along)")
    added.add_argument("--lora", metavar="ADAPTER", help="a folder that `train lora` or PEFT has written, added to it")
    added.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    added.add_argument("--split", choices=("check", "test", "combinations", "sizes", "all"), default="test",
                       help="unseen scenes, unseen pairs, unseen sizes, or a column for each (default: test)")
    added.add_argument("--scenes", metavar="N", type=whole(1), default=200,
                       help="scenes of every number of things, and texts of every kind (default: 200)")
    added.add_argument("--no-baselines", action="store_true", help="the model alone, in half the time")
    added.add_argument("--gallery", metavar="FILE", help="draw wrong answers, the true boxes green, the given ones red")

    training(command("train", "train a model of your own on drawn scenes, or draw the curves of a run"))

    kernel(command("kernel", "run CUDA kernels on the CPU: step from barrier to barrier, count what their lines cost"),
           as_json)

    added = command("info", "geometry, parameters, bytes and memory of a model", as_json)
    added.add_argument("folder", metavar="FOLDER", help="with a config.json; the weights may be missing")

    added = command("verify", "compare with the original's recorded tensors and words", as_json)
    added.add_argument("folder", metavar="FOLDER", help="laid out as the cases in tests/golden")
    added.add_argument("--kernels", action="store_true",
                       help="compute by the CUDA kernels, on the CPU slowly; gradients are left out")
    added.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    return top


STAGES = {"vision": "the vision tower, by contrast with words", "language": "the language model, on text alone",
          "stage1": "captions: the visual expert and the adapter", "stage2": "captions and boxes: the same",
          "sft": "conversations: the language model too",
          **{f"sft{n}": "the same, the rate begun anew" for n in range(2, 6)},
          "sft6": "the same, the tower too", "all": "one stage after the other"}


def training(parser):
    """`train STAGE` and `train plot`"""
    run = Parser(add_help=False)
    run.add_argument("--out", metavar="DIR", type=Path, default=Path("runs", "tiny"),
                     help="the run's folder (default: runs/tiny)")
    run.add_argument("--resume", action="store_true", help="go on where the folder's last checkpoint is")
    run.add_argument("--workers", metavar="N", type=whole(1), default=2, help="threads (default: 2)")
    run.add_argument("--seed", metavar="N", type=whole(0), default=0, help="of the initial weights (default: 0)")
    commands = parser.add_subparsers(metavar="STAGE", required=True, dest="stage")
    for stage, description in STAGES.items():
        added = commands.add_parser(stage, help=description, description=description, parents=[run])
        added.set_defaults(minutes=None, samples=None)
        if stage != "all":
            amount = added.add_mutually_exclusive_group()
            amount.add_argument("--minutes", metavar="M", type=positive("number of minutes"),
                                help="about so long, by the speed at the start")
            amount.add_argument("--samples", metavar="N", type=whole(1), help="so many (default: the stage's own)")
    lora(commands, run)
    added = commands.add_parser("plot", help="draw a run's curves", description="draw a run's curves, by matplotlib")
    added.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    added.add_argument("--out", metavar="FILE", type=Path, help="the picture (default: RUN/curves.png)")


def lora(commands, run):
    """`train lora`, `train merge` and `train unmerge`"""
    about = "fine-tune a model on pictures and questions of your own, by LoRA"
    added = commands.add_parser("lora", help=about, description=about, parents=[run])
    added.set_defaults(out=Path("runs", "lora"))
    added.add_argument("--data", metavar="FOLDER", type=Path, required=True,
                       help="pictures, and questions.jsonl: {\"image\": .., \"question\": .., \"answer\": ..} a line")
    added.add_argument("--weights", metavar="FOLDER", help="the base (default: the model that comes along)")
    added.add_argument("--targets", metavar="PATTERN", nargs="+",
                       help="names of matrices to change (default: 'model.layers.*')")
    added.add_argument("--rank", metavar="R", type=whole(1), default=8, help="of the updates (default: 8)")
    added.add_argument("--alpha", metavar="X", type=positive("number above 0"), default=16.0,
                       help="updates count X / R (default: 16)")
    added.add_argument("--rate", metavar="X", type=positive("number above 0"), default=0.01,
                       help="the highest learning rate (default: 0.01; larger models need less)")
    added.add_argument("--held-out", metavar="SHARE", type=share, default=0.1,
                       help="of the lines, not learned but asked at the end (default: 0.1)")
    amount = added.add_mutually_exclusive_group()
    amount.add_argument("--minutes", metavar="M", type=positive("number of minutes"),
                        help="about so long, by the speed at the start")
    amount.add_argument("--samples", metavar="N", type=whole(1), help="so many (default: every line ten times)")
    for name, about in (("merge", "write a model with an adapter inside its matrices"),
                        ("unmerge", "take an adapter out of a model's matrices again")):
        added = commands.add_parser(name, help=about, description=about)
        added.add_argument("adapter", metavar="ADAPTER", help="a folder that `train lora` or PEFT has written")
        added.add_argument("--weights", metavar="FOLDER", required=name == "unmerge", help="the merged model" if name ==
                           "unmerge" else "the base (default: the model that comes along)")
        added.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="the new model's folder")


STEPS = {"start": f"copy a lesson's exercise to the folder {LEARNER}", "check": "run your functions' checks",
         "watch": "check again whenever you save", "hint": "the next hint, of three",
         "solution": "the package's lines beside yours, once you pass or when asked twice",
         "reset": "begin a lesson anew; what you have is kept under another name"}


def learning(parser):
    """`learn` and its steps"""
    parser.set_defaults(step=None)
    steps = parser.add_subparsers(metavar="STEP", dest="step")
    for step, description in STEPS.items():
        added = steps.add_parser(step, help=description, description=description)
        if step in ("start", "reset"):
            added.add_argument("lesson", metavar="LESSON", help="its number")
        else:
            added.add_argument("lesson", metavar="LESSON", nargs="?", help="its number (default: the one you are at)")
        if step in ("hint", "solution"):
            added.add_argument("function", metavar="FUNCTION", nargs="?", help="default: the first that does not pass")


KERNEL_HELP = """\
FILE is a .cu file, or the name of one of tinycogvlm's own, such as rmsnorm.cu; of several kernels in it KERNEL is one,
with the arguments of its template. Then, side by side, an ARGUMENT for each of the kernel's parameters:
  4x64        an array of this shape: random numbers if the kernel only reads it, else zeros
  1.5:4x64    an array of this shape, filled with the number
  range:16    an array of this shape with 0, 1, 2 ..., as a list of indices has them
  x.npy       the array in a file that numpy.save wrote
  null        no array
  64          for a parameter that is no pointer: a number
(-2 and -0.5 are numbers; any other word that begins with a minus is taken for an option unless it stands behind --)

examples:
  tinycogvlm kernel step 'rmsnorm.cu:rms_norm_v3<float>' 2x256 256 2x256 2 256 1e-6 --grid 2 --block 64 --thread 33
  tinycogvlm kernel profile 'rmsnorm.cu:rms_norm_v1<float>' 32x64 64 32x64 32 64 1e-6 --grid 1 --block 32"""


def kernel(parser, as_json):
    """`kernel step` and `kernel profile`"""
    common = Parser(add_help=False)
    common.add_argument("kernel", metavar="FILE:KERNEL", help="which kernel; the quotes of the shell guard its < and >")
    common.add_argument("arguments", metavar="ARGUMENT", nargs="*", default=[], help="what it is called with")
    common.add_argument("--grid", metavar="XxYxZ", type=sizes, required=True, help="how many blocks: 8, 8x4 or 8x4x2")
    common.add_argument("--block", metavar="XxYxZ", type=sizes, required=True, help="how many threads in a block")
    common.add_argument("--shared", metavar="BYTES", type=whole(0), default=0, help="of dynamic shared memory")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="what")

    def command(name, description, *parents):
        added = commands.add_parser(name, help=description, description=description, parents=[common, *parents],
                                    epilog=KERNEL_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
        return added
    added = command("step", "stop at every barrier of one block, and show its shared arrays and where a thread is")
    added.add_argument("--thread", metavar="X,Y,Z", type=place, default=(0, 0, 0), help="which thread (default: 0)")
    added.add_argument("--of-block", metavar="X,Y,Z", type=place, default=(0, 0, 0), help="which block (default: 0)")
    command("profile", "for every line: the sectors of global memory it moves, and conflicts in shared memory", as_json)
    parser.epilog, parser.formatter_class = KERNEL_HELP, argparse.RawDescriptionHelpFormatter


def model_options():
    """Which model, how it computes, how it chooses its words."""
    options = Parser(add_help=False)
    group = options.add_argument_group("model")
    group.add_argument("--weights", metavar="FOLDER", help="a CogVLM folder (default: the model that comes along)")
    group.add_argument("--lora", metavar="ADAPTER", help="a folder that `train lora` or PEFT has written, added to it")
    group.add_argument("--tokenizer", metavar="PATH", help="tokenizer.json or tokenizer.model, if not in the folder")
    group.add_argument("--template", choices=TEMPLATES, help="by default what the model was trained on")
    group.add_argument("--image-size", metavar="PIXELS", type=whole(1), help="other than the model's own")
    group.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    group.add_argument("--dtype", choices=DTYPES, default="float32",
                       help="how numbers are stored; less than 32 bits on a GPU or with --kernels (default: float32)")
    group.add_argument("--kernels", action="store_true", help="compute by the CUDA kernels also on the CPU, slowly")
    group.add_argument("--stream", action="store_true", help="keep only a few blocks in memory, read the others again")
    group.add_argument("--rotary", choices=ROTARY, default="auto", help="where rotary tables come from (default: auto)")
    group = options.add_argument_group("sampling")
    group.add_argument("--max-new-tokens", metavar="N", type=whole(1), help="by default 2048 or what the context holds")
    group.add_argument("--temperature", metavar="T", type=number("temperature"), default=0.0,
                       help="0 takes the best token (default: 0)")
    group.add_argument("--top-k", metavar="K", type=whole(1), help="draw from the K best tokens")
    group.add_argument("--top-p", metavar="P", type=number("top_p"), help="draw from the best that have probability P")
    group.add_argument("--repetition-penalty", metavar="X", type=number("repetition_penalty"), default=1.0,
                       help="above 1: avoid tokens that were there (default: 1)")
    group.add_argument("--seed", metavar="N", type=whole(0), default=0, help="of the draws (default: 0)")
    return options


def whole(lowest, highest=None):
    def convert(text):
        if not re.fullmatch("[0-9]{1,18}", text) or not lowest <= int(text) <= (highest or int(text)):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number "
                                             + (f"from {lowest} to {highest}" if highest else f"of {lowest} or more"))
        return int(text)
    return convert


def sizes(text):
    if not re.fullmatch("[0-9]{1,10}(x[0-9]{1,10}){0,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not one, two or three sizes, such as 8 or 8x4")
    return tuple(map(int, text.split("x")))


def place(text):
    """Of a thread or a block: x, y and z."""
    if not re.fullmatch("[0-9]{1,10}(,[0-9]{1,10}){0,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not one, two or three indices, such as 33 or 1,2")
    return (*map(int, text.split(",")), 0, 0)[:3]


def positive(meaning):
    def convert(text):
        try:
            found = float(text)
        except ValueError:
            found = 0.0
        if not 0 < found < 1e6:
            raise argparse.ArgumentTypeError(f"{text!r} is no {meaning}")
        return found
    return convert


def share(text):
    if not re.fullmatch(r"0|0?\.[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no share, which is 0 or more and less than 1, such as 0.1")
    return float(text)


def number(name):
    """A number that Sampling takes by this name."""
    def convert(text):
        from ..model import generate
        try:
            return getattr(generate.Sampling(**{name: float(text)}), name)
        except ValueError as error:                         # UserError is one
            raise argparse.ArgumentTypeError(str(error)) from None
    return convert


def device(text):
    if not re.fullmatch("cpu|cuda(:[0-9]{1,4})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not cpu, cuda or cuda:N")
    return text


class Version(argparse.Action):
    def __call__(self, parser, *_):
        from importlib.metadata import PackageNotFoundError, version
        try:
            print(f"tinycogvlm {version('tinycogvlm')}")
        except PackageNotFoundError:
            print("tinycogvlm, run from its folder without being installed")
        parser.exit()
