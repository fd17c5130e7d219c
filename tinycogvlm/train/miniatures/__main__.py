from ..loop.process import ended_in_a_sentence, keep_freed_memory, one_blas_thread

if __name__ == "__main__":
    one_blas_thread()                                       # before anything imports NumPy
    keep_freed_memory()

import argparse
from pathlib import Path

from . import __doc__ as about
from .clipping import CLIPPING
from .contrast import CONTRAST
from .hearing import EARS
from .miniature import perform
from .positions import POSITIONS
from .queries import MASKS, QUERIES
from .shots import SHOTS
from .sounds import SOUNDS
from .speech import SPEECH

MINIATURES = {miniature.name: miniature for miniature in (CONTRAST, POSITIONS, CLIPPING, QUERIES, MASKS, SHOTS, SOUNDS,
                                                         SPEECH, EARS)}


def whole_number(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def main():
    listed = "\n".join(f"  {name:12} {one.minutes:.0f} minute{'s' * (one.minutes > 1)} a seed: {one.claim}" for name, one in MINIATURES.items())
    parser = argparse.ArgumentParser(prog="python -m tinycogvlm.train.miniatures", description=f"{about}\n{listed}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MINIATURES, help="which one")
    parser.add_argument("--out", type=Path, default=Path("miniatures"), help="the folder of the results "
                        "(default miniatures)")
    parser.add_argument("--seeds", type=whole_number, default=3, help="runs of each kind (default 3)")
    parser.add_argument("--only", type=lambda text: text.split(","), default=(), help="names of some runs")
    arguments = parser.parse_args()
    with ended_in_a_sentence():
        print(perform(MINIATURES[arguments.name], arguments.out, arguments.seeds, arguments.only))


if __name__ == "__main__":
    main()
