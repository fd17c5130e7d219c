"""tinycogvlm ask: answer a question about a picture, a sound, a video, or nothing to look at."""
from ..errors import UsageError
from ..inputs import audio, prompt, video
from .answer import answer_and_draw, computing, load_model, load_picture, respond, saying_what_is_lost
from .say import echo_json, say

OF_VIDEOS = "strategy", "frames", "fps"


def run(arguments):
    if bool(arguments.sound) != bool(arguments.ears):
        raise UsageError(f"--{'sound' if arguments.sound else 'ears'} goes with --{'ears' if arguments.sound else 'sound'}")
    if arguments.video:
        return ask_about_video(arguments)
    if arguments.out and arguments.image == "-":
        raise UsageError('--out needs a picture; IMAGE is "-"')
    given = [name for name in OF_VIDEOS if getattr(arguments, name) is not None]
    if given:
        raise UsageError(f"--{given[0]} goes with --video")
    with computing(arguments):
        picture = None if arguments.image == "-" else load_picture(arguments, arguments.image)
        sound = audio.Sound(audio.load(arguments.sound)) if arguments.sound else None
        return answer_and_draw(arguments, picture, lambda model: arguments.question, sound=sound)


def ask_about_video(arguments):
    """Choose the frames as the model was trained, ask, print -> exit code"""
    if arguments.out or arguments.image == "-":
        raise UsageError("--out needs a picture, not a video" if arguments.out else '--video needs one; IMAGE is "-"')
    with computing(arguments):
        model = load_model(arguments)
        laid_out = "chat" if arguments.strategy == "spread" else arguments.strategy
        template = arguments.template or laid_out or prompt.default_template(model.config)
        strategy = arguments.strategy or ("base" if template == "base" else "chat")
        room = prompt.room_for_frames(model.config, model.tokenizer, arguments.question)
        clip = video.read(arguments.image, strategy, arguments.fps, arguments.frames or min(video.MOST, room),
                          arguments.rescale)
        if not arguments.frames and len(clip.frames) == room < video.MOST:
            say(f"tinycogvlm: this model's context has room for {room} frames, so no more are taken")
        arguments.template = template
        with saying_what_is_lost():
            report = respond(model, arguments, clip, arguments.question)
        if arguments.json:
            echo_json({**report, "frames": len(clip.frames)})
    return 0
