"""tinycogvlm transcribe: write down what is said in a recording, a line for each segment."""
from ..errors import UserError
from ..loading import load
from ..relatives.transcription import Transcriber
from .answer import computing
from .say import echo, echo_json, legible, progress


def run(arguments):
    with computing(arguments):
        return transcribe(arguments)


def transcribe(arguments):
    model = load(arguments.weights, arguments.device)
    if not isinstance(model, Transcriber):
        raise UserError(f"{arguments.weights} does not hold a Whisper, which transcribe needs")
    segments = []
    for segment in model.transcribe(arguments.sound, arguments.language, say_progress):
        segments.append(segment)
        if not arguments.json:
            times = f"[{clock(segment.start)} - {clock(segment.end)}]  " if arguments.timestamps else ""
            echo(times + segment.text.strip(), flush=True)
    if arguments.json:
        echo_json(report(arguments, segments))
    return 0


def report(arguments, segments):
    """What --json prints. Times are seconds; language is None where nothing is said."""
    return {"sound": legible(arguments.sound), "language": segments[0].language if segments else None,
            "text": "".join(segment.text for segment in segments).strip(),
            "segments": [{"start": round(segment.start, 2), "end": round(segment.end, 2), "text": segment.text.strip(),
                          "temperature": segment.temperature, "log_probability": round(segment.log_probability, 4)}
                         for segment in segments]}


def say_progress(seconds, of):
    progress(f"at {clock(seconds)} of {clock(of)} ...")


def clock(seconds):
    """Minutes and seconds"""
    hundredths = round(100 * seconds)
    return f"{hundredths // 6000:02}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"
