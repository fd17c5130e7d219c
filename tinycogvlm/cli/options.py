"""The command line: every command, its options, and what they take."""
import argparse
import re
import sys
from pathlib import Path

from ..errors import UsageError, UserError
from ..train.recipe import STAGES
from .say import as_utf8, echo

# Written out here so that --help does not have to import the model; tests compare them with the modules they stand for.
TEMPLATES = ("base", "vqa", "chat", "vicuna", "own")
ACTIVATIONS = ("float32", "float16", "bfloat16")
DTYPES = ("float64", "float32", "float16", "bfloat16", "int8", "int4")
ROTARY = ("auto", "stored", "stored-2byte", "base")
MANNERS = ("plain", "any", "colour", "lines", "mouse", "outline", "unknown", "number", "word", "captcha")
STRATEGIES = ("chat", "base", "spread")
COMPARISONS = {"tower": "what makes a tower know drawings by a hand never seen",
               "experts": "what each part of the visual expert is worth",
               "parameters": "experts, LoRA and p-tuning with as many trained parameters",
               "bridges": "twelve bridges between tower and language model",
               "ways": "eleven ways to join a picture and a language model",
               "encoder-free": "patches straight into the language model, with and without a teacher",
               "eyes": "what eyes for SmolLM2 must learn: least squares alone, an adapter, experts"}
LEARNER = "my-cogvlm"
CHECK_FINITE = "name the first layer that gives NaN or infinity (slower)"


class Parser(argparse.ArgumentParser):
    """Wrong usage is a UsageError like any other problem, in one sentence."""

    def error(self, message):
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args=None, namespace=None):  # of a command what it does not know is its own error
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def print_help(self, file=None):                        # argparse's own hides that a pipe is broken or a disk full
        echo(self.format_help(), end="")


def parser():
    """The parser of all commands; the parsed arguments' `command` is the name of the file that runs it."""
    top = Parser(prog="tinycogvlm", description="Ask CogVLM about pictures.")
    top.add_argument("--version", action=Version, nargs=0, dest=argparse.SUPPRESS, help="print the version")
    added_to = top.add_subparsers(metavar="COMMAND", required=True, dest="command")

    def command(name, description, *parents):
        return added_to.add_parser(name, help=description, description=description, parents=parents)

    as_json = Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON; sizes and boxes are plain numbers")
    model, answering = model_options(), answer_options()

    added = command("ask", "answer a question about a picture or a video", model, answering, as_json)
    added.add_argument("image", metavar="IMAGE", type=filled, help="a picture file, or - to ask without a picture")
    added.add_argument("question", metavar="QUESTION", type=words)
    added.add_argument("--out", metavar="FILE", type=filled, help="write the picture with the answer's boxes on it")
    added.add_argument("--sound", metavar="FILE", type=filled, help="a sound file, heard after the picture; needs --ears")
    added.add_argument("--ears", metavar="FOLDER", type=filled,
                       help="what the miniature `hearing` trained, so that the model hears")
    added.add_argument("--video", action="store_true",
                       help="IMAGE is a video file, an animated picture, or a folder of frames")
    added.add_argument("--strategy", choices=STRATEGIES,
                       help="chat: a frame each second, with its number; base: frames spread over the first minute; "
                            "spread: those, each with its second (default: the template, chat or base)")
    added.add_argument("--frames", metavar="N", type=whole(1, 1000),
                       help="how many frames at most (default: 24, as in CogVLM2-Video's training, or what the context "
                            "holds)")
    added.add_argument("--fps", metavar="X", type=positive("number of frames a second"),
                       help="frames a second of a folder (default: 1)")

    captioning(command("caption", "describe pictures, one line each, or a data set into a file", model, answering,
                       as_json))

    added = command("ground", "find something in a picture", model, answering, as_json)
    added.add_argument("image", metavar="IMAGE", type=filled)
    added.add_argument("phrase", metavar="PHRASE", type=words, help="what to find, such as 'the red star'")
    added.add_argument("--out", metavar="FILE", type=filled, help="write the picture with the box on it")

    added = command("chat", "talk about a picture, or without one", model, answering)
    added.add_argument("image", metavar="IMAGE", type=filled, nargs="?")

    added = command("look", "see what the model looked at before a token of its answer, and what it nearly said", model,
                    answering, as_json)
    added.add_argument("image", metavar="IMAGE", type=filled, help="a picture file, or - to ask without a picture")
    added.add_argument("question", metavar="QUESTION", type=words)
    added.add_argument("--token", metavar="N", type=whole(0), default=0, help="of the answer, from 0 (default: 0)")
    added.add_argument("--layer", metavar="N", type=whole(0), help="of the heat (default: the mean of all)")
    added.add_argument("--head", metavar="N", type=whole(0), help="of the heat (default: the mean of all)")
    added.add_argument("--without", metavar="PART", type=filled, action="append", default=[],
                       help="switch a part off: layer:2, head:1.4, expert:vision or expert:language; with @70 or @70-80 "
                            "only at these tokens; may be given again")
    added.add_argument("--out", metavar="FILE", type=filled, help="write the picture with the attention as heat on it")

    added = command("serve", "answer clients of OpenAI's API over HTTP: chat with pictures, embeddings", model)
    added.add_argument("--host", metavar="HOST", type=filled, default="127.0.0.1",
                       help="address to listen at (default: 127.0.0.1, this machine only)")
    added.add_argument("--port", metavar="PORT", type=whole(0, 65535), default=8000, help="0: any (default: 8000)")
    added.add_argument("--batch", metavar="N", type=whole(1), default=16, help="answers computed together (default: 16)")
    added.add_argument("--queue", metavar="N", type=whole(1), default=64,
                       help="requests that may wait; more are refused with status 429 (default: 64)")
    added.add_argument("--seconds", metavar="N", type=positive("number of seconds"), default=300.0,
                       help="for an answer, waiting included (default: 300)")

    added = command("match", "say how well texts fit pictures, by a CLIP or a SigLIP", as_json)
    added.add_argument("images", metavar="IMAGE", type=words, nargs="+", help="picture files")
    added.add_argument("texts", metavar="TEXT", type=words, nargs="+",
                       help="such as 'a photo of a dog'; the first is the first word that neither is a file nor has a "
                            "picture's ending")
    added.add_argument("--weights", metavar="FOLDER", type=filled,
                       help="a CLIP's or a SigLIP's folder (default: the bundled pair)")
    added.add_argument("--rescale", action="store_true",
                       help="map 16-bit and floating-point grey to 0..255; without, it is clipped, as by the original")
    added.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    added.add_argument("--dtype", choices=("float32", "float64"), default="float32",
                       help="of the arithmetic (default: float32)")
    added = command("transcribe", "write down what is said in a recording", as_json)
    added.add_argument("sound", metavar="SOUND", type=filled,
                       help="a WAV file of 16000 samples a second; with tinycogvlm[audio] any sound file")
    added.add_argument("--weights", metavar="FOLDER", type=filled, required=True,
                       help="a Whisper's folder: Hugging Face's, or CTranslate2's with a model.bin")
    added.add_argument("--language", metavar="CODE", type=filled, help="such as en (default: what the model hears)")
    added.add_argument("--timestamps", action="store_true", help="print when each line is said")
    added.add_argument("--mine", action="store_true", help=f"compute with your own functions, those in {LEARNER}")
    added.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")

    learning(command("learn", "the course: write every part of the model yourself; without STEP: where you are"))

    added = command("scene", "draw a scene like those in training, and print what is true of it", as_json)
    added.add_argument("--seed", metavar="N", type=whole(0), default=0, help="which scene (default: 0)")
    added.add_argument("--things", metavar="N", type=whole(1, 8), help="1 to 8 (default: 1 to 4, at random)")
    added.add_argument("--manner", choices=MANNERS, default="plain",
                       help="plain: pictograms by one hand and simple shapes; any: by any hand, on any ground; colour, "
                            "lines: as one hand drew them; mouse, outline: shapes as drawn with a mouse; unknown: "
                            "what has no name in this world; number, word, captcha: writing (default: plain)")
    added.add_argument("--split", choices=("train", "check", "test", "combinations", "sizes", "style"), default="test",
                       help="train, or scenes that training never sees; combinations, sizes: of plain scenes; style: of "
                            "the others, by hands that training never sees (default: test)")
    added.add_argument("--size", metavar="PIXELS", type=whole(28, 1344), default=112,
                       help="side length of the picture, 28 to 1344 (default: 112)")
    added.add_argument("--video", action="store_true", help="a video of 8 frames, whose things come, go and move")
    added.add_argument("--pace", metavar="SECONDS", type=whole(1, 60),
                       help="from a frame of a video to the next (default: 1)")
    added.add_argument("--out", metavar="FILE", type=filled, help="write the picture; a video as .gif, .png or .webp")
    added.add_argument("--list", action="store_true", help="print the world's kinds, colours, shapes and backgrounds")

    added = command("eval", "ask about scenes never seen in training, and count the right answers", as_json)
    added.add_argument("--weights", metavar="FOLDER", type=filled, help="a CogVLM folder (default: the bundled model)")
    added.add_argument("--lora", metavar="ADAPTER", type=filled, help="add the adapter that `train lora` or PEFT wrote")
    added.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    added.add_argument("--check-finite", action="store_true", help=CHECK_FINITE)
    added.add_argument("--split", choices=("check", "test", "combinations", "sizes", "all"), default="test",
                       help="unseen scenes, unseen pairs, unseen sizes, or a column for each (default: test)")
    added.add_argument("--scenes", metavar="N", type=whole(1), default=200,
                       help="pictures, or texts, that every row asks about (default: 200)")
    added.add_argument("--no-baselines", action="store_true", help="only the model, not what guessing gives")
    added.add_argument("--video", action="store_true",
                       help="about videos, each of whose frames is followed by its second; --scenes: questions of a kind")
    added.add_argument("--no-times", action="store_true", help="with --video: without these seconds")
    added.add_argument("--image-size", metavar="PIXELS", type=whole(28, 1344), help="side length of the frames, of "
                       "videos only (default: the model's)")
    added.add_argument("--gallery", metavar="FILE", type=filled,
                       help="draw wrong answers, with true boxes in green and given ones in red")

    training(command("train", "train a model of your own on drawn scenes, fine-tune one with LoRA, or plot a run"))

    comparing(command("ablate", "train variants of the model on the same questions, and compare them in a table"))

    kernel(command("kernel", "run CUDA kernels on the CPU, step through them, or see what each line costs"), as_json)

    added = command("info", "show a model's geometry, parameters and memory", as_json)
    added.add_argument("folder", metavar="FOLDER", type=filled,
                       help="with a config.json; the weights may be missing; or a .gguf file, or smollm2")

    added = command("quantise", "write a model with its matrices in 4 or 8 bits, which a GPU loads in seconds")
    added.add_argument("folder", metavar="FOLDER", type=filled, help="a CogVLM's or a Llama's folder")
    added.add_argument("out", metavar="OUT", type=path, help="the new model's folder")
    added.add_argument("--dtype", choices=("int4", "int8"), default="int4", help="of the matrices (default: int4)")
    added.add_argument("--lora", metavar="ADAPTER", type=filled, help="add the adapter that `train lora` or PEFT wrote")

    added = command("verify", "compare with tensors and words that the original recorded", as_json)
    added.add_argument("folder", metavar="FOLDER", type=filled,
                       help="a case like those in tests/golden, or many small ones with a components.json")
    added.add_argument("--case", metavar="NAME", type=filled, help="only this one of components.json")
    added.add_argument("--kernels", action="store_true", help="use the CUDA kernels, slow on the CPU; skips gradients")
    added.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    return top


def captioning(parser):
    """`caption`: what to describe, how, and where to"""
    parser.add_argument("data", metavar="DATA", type=filled, nargs="+",
                        help="pictures, folders, patterns, WebDataset tars, Parquet files; - for a list on stdin")
    parser.add_argument("--prompt", metavar="[NAME=]TEXT", type=words, action="append",
                        help="what to ask, into the column NAME (default: caption); {tags} stands for a field of the "
                             "picture; may be given several times")
    parser.add_argument("--boxes", action="store_true", help="ask for boxes and add them to the rows, in pixels")
    parser.add_argument("--out", metavar="FILE", type=path, help="write rows to a .jsonl, .parquet or .tar; a run that "
                        "was stopped goes on")
    parser.add_argument("--text-files", action="store_true", help="also write a .txt beside each picture")
    parser.add_argument("--trim", action="store_true", help="cut off openings such as 'The image shows'")
    parser.add_argument("--batch", metavar="N", type=whole(1), help="answers at a time (default: 16)")
    parser.add_argument("--retries", metavar="N", type=whole(0, 9),
                        help="how often to ask again for an answer that was cut or repeats itself (default: 2)")
    parser.add_argument("--workers", metavar="N", type=whole(1), help="processes, or actors of Ray (default: 1)")
    parser.add_argument("--shard", metavar="I/N", type=part, help="only part I of N, from 0; who ends last joins them")
    parser.add_argument("--engine", metavar="ray[=ADDRESS]", type=engine, help="on a Ray cluster, or one started here")


def comparing(parser):
    """`ablate`: what is compared, from which start, for how long"""
    parser.add_argument("what", choices=tuple(COMPARISONS), help="; ".join(
        f"{name}: {about}" for name, about in COMPARISONS.items()))
    parser.add_argument("--weights", metavar="FOLDER", type=filled,
                        help="a CogVLM's, or one where the stages vision and language are finished: their tower and "
                             "language model are the start (default: the bundled model)")
    parser.add_argument("--out", metavar="DIR", type=path, help="the folder of the results (default: runs/ and the name "
                        "of what is compared)")
    parser.add_argument("--samples", metavar="N", type=whole(1), help="pictures of each run (default: the comparison's "
                        "own)")
    parser.add_argument("--seeds", metavar="N", type=whole(1), default=3, help="runs of every variant (default: 3)")
    parser.add_argument("--only", metavar="NAMES", type=lambda text: words(text).split(","), default=[],
                        help="some of the variants, such as linear,mlp (default: all)")


def training(parser):
    """`train STAGE`, `train all`, `train plot`, `train pair` and the LoRA commands"""
    commands = parser.add_subparsers(metavar="STAGE", required=True, dest="stage")
    for stage, description in {**STAGES, "all": "every stage, one after the other"}.items():
        added = commands.add_parser(stage, help=description, description=description,
                                    parents=[run_options(Path("runs", "tiny"))])
        added.set_defaults(minutes=None, samples=None)
        if stage != "all":
            length_options(added, "the stage's own")
    eyes(commands)
    lora(commands)
    about = "train a small CLIP for `match` on drawn scenes and short texts about them"
    added = commands.add_parser("pair", help=about, description=about, parents=[run_options(Path("runs", "pair"))])
    length_options(added, "192000 pairs")
    added = commands.add_parser("plot", help="plot a run's curves", description="plot a run's curves with matplotlib")
    added.add_argument("run", metavar="RUN", type=path, help="the folder of a run")
    added.add_argument("--out", metavar="FILE", type=path, help="the picture (default: RUN/curves.png)")


def run_options(out):
    """What every training takes; a parser of its own each time, because argparse shares the defaults of a parent."""
    options = Parser(add_help=False)
    options.add_argument("--out", metavar="DIR", type=path, default=out, help=f"the run's folder (default: {out})")
    options.add_argument("--resume", action="store_true", help="continue from the folder's last checkpoint")
    options.add_argument("--workers", metavar="N", type=whole(1), default=2, help="threads (default: 2)")
    options.add_argument("--seed", metavar="N", type=whole(0), default=0, help="of the initial weights (default: 0)")
    return options


def adapter_options():
    """What every training of a LoRA adapter takes, see run_options"""
    options = Parser(add_help=False)
    options.add_argument("--weights", metavar="FOLDER", type=filled, help="the base model (default: the bundled model)")
    options.add_argument("--targets", metavar="PATTERN", nargs="+",
                         help="names of the matrices to change (default: 'model.layers.*' lm_head.weight)")
    options.add_argument("--rank", metavar="R", type=whole(1), default=8, help="of the updates (default: 8)")
    options.add_argument("--alpha", metavar="X", type=positive("number above 0"), default=16.0,
                         help="scale the updates by X / R (default: 16)")
    options.add_argument("--rate", metavar="X", type=positive("number above 0"), default=0.01,
                         help="peak learning rate (default: 0.01; larger models need less)")
    return options


def length_options(parser, default):
    """How long a training is: in minutes or in samples."""
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", metavar="M", type=positive("number of minutes"),
                        help="how long, roughly: converted to samples by the speed at the start")
    length.add_argument("--samples", metavar="N", type=whole(1), help=f"how many (default: {default})")


def eyes(commands):
    """`train eyes`"""
    about = "give eyes to a language model that already speaks; none of its weights changes"
    added = commands.add_parser("eyes", help=about, description=about, parents=[run_options(Path("runs", "eyes"))])
    added.add_argument("--language", metavar="MODEL", type=filled, default="smollm2",
                       help="smollm2, whose package is installed; a .gguf file; or a LLaMA's folder (default: smollm2)")
    added.add_argument("--tower", metavar="FOLDER", type=filled,
                       help="the CogVLM whose vision tower it is to see with (default: the bundled model)")
    added.add_argument("--rank", metavar="R", type=rank, default=8,
                       help="of the visual experts' difference from the language model's weights; 0: none; or full "
                            "(default: 8)")
    length_options(added, "32000")


def rank(text):
    """--rank: a whole number, or full"""
    return text if text == "full" else whole(0)(text)


def lora(commands):
    """`train lora`, `train video`, `train merge` and `train unmerge`"""
    about = "fine-tune a model with LoRA on your own pictures and questions"
    added = commands.add_parser("lora", help=about, description=about,
                                parents=[run_options(Path("runs", "lora")), adapter_options()])
    added.add_argument("--data", metavar="FOLDER", type=path, required=True,
                       help='pictures and questions.jsonl; each line is {"image": .., "question": .., "answer": ..}')
    added.add_argument("--held-out", metavar="SHARE", type=share, default=0.1,
                       help="share of the lines kept for a test at the end (default: 0.1)")
    added.add_argument("--mix", metavar="SHARE", type=share, default=0.0,
                       help="share of drawn scenes with old questions in what is learned, so that less is forgotten; 0.7 "
                            "does well (default: 0)")
    length_options(added, "every line ten times")
    about = "fine-tune a model with LoRA on drawn videos: what appears when, and where it is then"
    added = commands.add_parser("video", help=about, description=about,
                                parents=[run_options(Path("runs", "video")), adapter_options()])
    added.add_argument("--no-times", action="store_true", help="without the second after each frame, for comparison")
    added.add_argument("--image-size", metavar="PIXELS", type=whole(28, 1344),
                       help="side length of the frames (default: the model's)")
    length_options(added, "4000")
    for name, about in (("merge", "write a model with an adapter merged into its matrices"),
                        ("unmerge", "take a merged adapter out of a model's matrices again")):
        added = commands.add_parser(name, help=about, description=about)
        added.add_argument("adapter", metavar="ADAPTER", type=filled, help="a folder that `train lora` or PEFT wrote")
        added.add_argument("--weights", metavar="FOLDER", type=filled, required=name == "unmerge",
                           help="the merged model" if name == "unmerge" else "the base (default: the bundled model)")
        added.add_argument("--out", metavar="FOLDER", type=path, required=True, help="the new model's folder")


STEPS = {"start": f"copy a lesson's exercise to the folder {LEARNER}", "check": "check your functions",
         "try": "ask the model through your functions, right or wrong, and through the package's",
         "train": "train a small model for about a minute through your loss, gradients and AdamW, and draw the curve",
         "watch": "check again whenever you save", "hint": "show the next of three hints",
         "solution": "show a solution beside yours, once you pass or when you ask twice",
         "experiment": "guess what a change of the model does to its answers, and see; without NUMBER: a list",
         "reset": "start a lesson over; your file is kept under another name",
         "notebook": f"write a lesson as a Jupyter notebook, into {LEARNER}/notebooks",
         "book": "write the whole course as HTML pages that need no network"}


def learning(parser):
    """`learn` and its steps"""
    parser.set_defaults(step=None)
    steps = parser.add_subparsers(metavar="STEP", dest="step")
    for step, description in STEPS.items():
        added = steps.add_parser(step, help=description, description=description)
        if step == "book":
            added.add_argument("--out", metavar="FOLDER", type=path,
                               help=f"a new one, or that of an older book (default: {LEARNER}/book)")
        elif step in ("start", "reset", "experiment", "notebook"):
            added.add_argument("lesson", metavar="LESSON", type=filled, help="its number")
        elif step != "train":
            added.add_argument("lesson", metavar="LESSON", type=filled, nargs="?", help="its number (default: current)")
        if step == "experiment":
            added.add_argument("number", metavar="NUMBER", type=whole(1), nargs="?", help="1, 2 or 3")
        if step in ("hint", "solution"):
            added.add_argument("function", metavar="FUNCTION", nargs="?", help="default: the first that does not pass")


KERNEL_HELP = """\
FILE is a .cu file, or the name of one of tinycogvlm's own, such as rmsnorm.cu. KERNEL is one of its kernels, with the
template arguments; it may be left out if there is only one. The file is compiled and runs on this machine like any
program of yours: use only files that you trust. Then comes one ARGUMENT for each parameter:
  4x64         an array of this shape: random numbers if the kernel only reads it, otherwise zeros
  random:4x64  the same with random numbers (0 to 9 for integers), whatever the kernel does with it
  1.5:4x64     an array of this shape filled with 1.5
  range:16     an array of this shape with the values 0, 1, 2, ...
  x.npy        the array in a file that numpy.save wrote
  null         a null pointer
  64           a number, for a parameter that is not a pointer
The kernel says of which type the numbers are; for void* a word does, as in 4x64:float32. Any word may name its
parameter, as in n=64; the others are taken in their order. (-2 and -0.5 are numbers; any other word that begins with a
minus is an option, unless it comes after --)

examples:
  tinycogvlm kernel run 'rmsnorm.cu:rms_norm_v2<float>' 2x64 1:64 2x64 2 64 1e-6 --grid 1 --block 64 --race
  tinycogvlm kernel step 'rmsnorm.cu:rms_norm_v3<float>' 2x256 256 2x256 2 256 1e-6 --grid 2 --block 64 --thread 33
  tinycogvlm kernel profile 'rmsnorm.cu:rms_norm_v1<float>' 32x64 64 32x64 32 64 1e-6 --grid 1 --block 32"""


def kernel(parser, as_json):
    """`kernel run`, `kernel step` and `kernel profile`"""
    common = Parser(add_help=False)
    common.add_argument("kernel", metavar="FILE:KERNEL", type=filled, help="which kernel; quote < and > for the shell")
    common.add_argument("arguments", metavar="ARGUMENT", nargs="*", default=[], help="its arguments")
    common.add_argument("--grid", metavar="XxYxZ", type=sizes, required=True, help="number of blocks: 8, 8x4 or 8x4x2")
    common.add_argument("--block", metavar="XxYxZ", type=sizes, required=True, help="number of threads in a block")
    common.add_argument("--shared", metavar="BYTES", type=whole(0), default=0, help="dynamic shared memory")
    common.add_argument("-D", metavar="NAME[=VALUE]", type=macro, action="append", default=[], dest="defines",
                        help="define a macro, as compilers do")
    common.add_argument("--constant", metavar="NAME=VALUES", type=constant, action="append", default=[],
                        help="of a __constant__ variable: k=k.npy or, with the type, k=0.25:9:float32")
    common.add_argument("--seconds", metavar="N", type=positive("number of seconds"),
                        help="stop the kernel after so many seconds")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="what")

    def command(name, description, *parents):
        added = commands.add_parser(name, help=description, description=description, parents=[common, *parents],
                                    epilog=KERNEL_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
        return added
    added = command("run", "run the kernel, and show what it has written", as_json)
    added.add_argument("--race", action="store_true", help="watch every access: name races, accesses out of bounds and "
                       "reads of what was never written (slow)")
    added.add_argument("--order", choices=("forward", "backward", "shuffled"), default="forward",
                       help="in which threads and blocks run; a right kernel does not depend on it (default: forward)")
    added.add_argument("--seed", metavar="N", type=whole(0), default=0,
                       help="of random arguments and of --order shuffled (default: 0)")
    added.add_argument("--out", metavar="FOLDER", type=path, help="write each array there as NAME.npy")
    added.add_argument("--expect", metavar="[NAME=]FILE.npy", type=filled, action="append", default=[],
                       help="exit with 1 unless the array NAME, or the only one written, is as in the file")
    added.add_argument("--close", metavar="TOL", type=tolerance, default=0.0,
                       help="how far an entry may lie from --expect, as a share of the expected number, or of 1 if "
                            "that is larger (default: 0, equal)")
    added = command("step", "stop at every barrier of one block, and show its shared arrays and one thread's place")
    added.add_argument("--thread", metavar="X,Y,Z", type=place, default=(0, 0, 0), help="which thread (default: 0)")
    added.add_argument("--of-block", metavar="X,Y,Z", type=place, default=(0, 0, 0), help="which block (default: 0)")
    command("profile", "show for every line the sectors of global memory it moves and its bank conflicts", as_json)
    parser.epilog, parser.formatter_class = KERNEL_HELP, argparse.RawDescriptionHelpFormatter


def model_options():
    """Which model, and how it computes"""
    options = Parser(add_help=False)
    group = options.add_argument_group("model")
    group.add_argument("--weights", metavar="MODEL", type=filled,
                       help="a CogVLM's or a Llama's folder, a .gguf file, or smollm2 (default: the bundled model)")
    group.add_argument("--lora", metavar="ADAPTER", type=filled, help="add the adapter that `train lora` or PEFT wrote")
    group.add_argument("--tokenizer", metavar="PATH", type=filled,
                       help="tokenizer.json or tokenizer.model, if the folder has none")
    group.add_argument("--template", choices=TEMPLATES, help="prompt format; own: a llama's (default: as in training)")
    group.add_argument("--image-size", metavar="PIXELS", type=whole(1), help="side length (default: the model's own)")
    group.add_argument("--rescale", action="store_true",
                       help="map 16-bit and floating-point grey to 0..255; without, it is clipped, as by the original")
    group.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    group.add_argument("--dtype", choices=DTYPES,
                       help="how numbers are stored; below 32 bits on a GPU or with --kernels (default: float32; on a "
                            "GPU 16, 8 or 4 bits, the most that fit whole)")
    group.add_argument("--activations", choices=ACTIVATIONS,
                       help="what a --dtype below 32 bits is computed in (default: float16, or bfloat16 for a "
                            "checkpoint in bfloat16, whose range float16 does not hold)")
    group.add_argument("--kernels", action="store_true", help="use the CUDA kernels on the CPU too (slow)")
    group.add_argument("--stream", action="store_true", help="keep only a few blocks in memory, read the others again")
    group.add_argument("--rotary", choices=ROTARY, default="auto", help="where rotary tables come from (default: auto)")
    group.add_argument("--check-finite", action="store_true", help=CHECK_FINITE)
    return options


def answer_options():
    """Whose functions compute, how the words are chosen"""
    options = Parser(add_help=False)
    options.add_argument("--mine", action="store_true", help=f"compute with your own functions, those in {LEARNER}")
    group = options.add_argument_group("sampling")
    group.add_argument("--max-new-tokens", metavar="N", type=whole(1),
                       help="length limit (default: 2048, or what the context has room for)")
    group.add_argument("--temperature", metavar="T", type=number("temperature"), default=0.0,
                       help="0 takes the likeliest token (default: 0)")
    group.add_argument("--top-k", metavar="K", type=whole(1), help="sample from the K likeliest tokens")
    group.add_argument("--top-p", metavar="P", type=number("top_p"),
                       help="sample from the likeliest tokens that have probability P together")
    group.add_argument("--repetition-penalty", metavar="X", type=number("repetition_penalty"), default=1.0,
                       help="above 1: make tokens that have occurred less likely (default: 1)")
    group.add_argument("--seed", metavar="N", type=whole(0), default=0, help="of the sampling (default: 0)")
    return options


def filled(text):
    """A file's or folder's name. An empty one is most often a shell variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; is a variable not set?")
    return text


def path(text):
    return Path(filled(text))


def words(text):
    """A question or phrase"""
    if not text.strip():
        raise argparse.ArgumentTypeError("it has no words; is a variable not set?")
    try:
        return as_utf8(text, sys.getfilesystemencoding())
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole(lowest, highest=None):
    def convert(text):
        if not re.fullmatch("[0-9]{1,18}", text) or not lowest <= int(text) <= (highest or int(text)):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number "
                                             + (f"from {lowest} to {highest}" if highest else f"of {lowest} or more"))
        return int(text)
    return convert


def sizes(text):
    """Of a grid or a block"""
    if not re.fullmatch("[0-9]{1,10}(x[0-9]{1,10}){0,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not one, two or three sizes, such as 8 or 8x4")
    return tuple(map(int, text.split("x")))


def place(text):
    """x, y and z of a thread or a block"""
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
            raise argparse.ArgumentTypeError(f"{text!r} is not a {meaning}")
        return found
    return convert


def part(text):
    """I/N"""
    found = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if not found or not int(found[1]) < int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 0/8, the first of eight, to 7/8")
    return int(found[1]), int(found[2])


def engine(text):
    if not re.fullmatch("ray(=.+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not ray, or ray= and a cluster's address")
    return text


def macro(text):
    name, _, value = text.partition("=")
    if not re.fullmatch(r"[A-Za-z_]\w*", name) or not value.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME or NAME=VALUE")
    return name, value if "=" in text else "1"


def constant(text):
    name, equals, values = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUES, such as k=k.npy")
    return name, values


def tolerance(text):
    if not re.fullmatch(r"[0-9]*\.?[0-9]+(e-?[0-9]{1,2})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a tolerance, such as 1e-5")
    return float(text)


def share(text):
    if not re.fullmatch(r"0|0?\.[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: at least 0 and below 1, such as 0.1")
    return float(text)


def number(name):
    """A number that generate.Sampling accepts under this name"""
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
            echo(f"tinycogvlm {version('tinycogvlm')}")
        except PackageNotFoundError:
            echo("tinycogvlm, run from a checkout without being installed")
        parser.exit()
