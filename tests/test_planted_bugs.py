"""Small bugs drawn by a fixed seed are planted one at a time, and some test must fail for each: tests/planting.py.

A bug that lives shows what no test looks at: write that test, or list the bug in EQUIVALENT with the reason why nothing
changes. Each is tried on the tests of its file alone, RELATED, so that all of them take four minutes on two cores.
"""
import re
from functools import lru_cache

import pytest

from planting import ROOMS, checkout, drawn, planted

SEED, MOST = 1, 8

# The first pattern that a file matches: the tests it is tried on, the quickest to find something first.
RELATED = (
    (r"nn/arrays", "test_arrays.py test_safetensors_file.py test_ops.py test_quantise.py test_engine.py"),
    (r"nn/swap", "test_swap.py"),
    (r"nn/tree", "test_tree.py test_gradients.py test_config.py"),
    (r"nn/trace", "test_model.py test_claims.py"),
    (r"nn/(more_ops|convolution|activations)", "test_ops.py test_relatives.py test_bridges.py"),
    (r"nn/", "test_ops.py test_model.py test_gradients.py"),
    (r"model/route", "test_route.py test_model.py test_hearing.py"),
    (r"model/(config|families|parts)", "test_config.py test_model.py test_quantise.py"),
    (r"model/generate", "test_generate.py"),
    (r"model/(look|without)", "test_look.py test_without.py"),
    (r"model/", "test_model.py test_gradients.py test_golden.py"),
    (r"inputs/(tokenizer|sentencepiece)", "test_tokenizer.py"),
    (r"inputs/texts", "test_texts_of_pairs.py"),
    (r"inputs/chat_template", "test_llama.py test_smollm2.py"),
    (r"inputs/examples", "test_examples.py"),
    (r"inputs/heat", "test_look.py"),
    (r"inputs/audio", "test_audio.py test_clap.py"),
    (r"inputs/(prompt|image|grounding|video)", "test_{}.py"),
    (r"storage/(atomic|reading)", "test_{}.py"),
    (r"storage/lora", "test_lora.py"),
    (r"storage/quantise", "test_quantise.py"),
    (r"storage/(codes|gguf)", "test_{}.py"),
    (r"storage/ctranslate2", "test_whisper.py"),
    (r"storage/safetensors_file", "test_safetensors_file.py test_params.py test_params_mutations.py"),
    (r"storage/", "test_params.py test_loading.py test_streaming.py"),
    (r"train/loop/optimizer", "test_optimizer.py"),
    (r"train/loop/ahead", "test_ahead.py"),
    (r"train/loop/(run|log)", "test_run_folder.py test_train_cli.py"),
    (r"train/loop", "test_loop.py test_resume.py test_train_cli.py"),
    (r"train/ablation/encoder_free", "test_ablation_encoder_free.py"),
    (r"train/ablation/table", "test_ablation_table.py"),
    (r"train/ablation/tower", "test_tower_ablation.py"),
    (r"train/ablation/parameters", "test_equal_parameters.py"),
    (r"train/ablation/(bridges|ways|work)", "test_joining.py"),
    (r"train/ablation/comparison", "test_ablation_table.py test_ablate.py"),
    (r"train/ablation", "test_ablate.py"),
    (r"train/lora/videos", "test_videos_world.py"),
    (r"train/lora", "test_fine_tune.py test_lora.py"),
    (r"train/miniatures/(hearing|sounds|speech)", "test_sounds.py"),
    (r"train/miniatures", "test_miniatures.py"),
    (r"train/eyes|world/real_words", "test_eyes.py"),
    (r"train/recipe/contrast", "test_vision.py"),
    (r"train/recipe/pair", "test_pair_training.py"),
    (r"train/recipe/learn_tokenizer", "test_learn_tokenizer.py"),
    (r"train/recipe/forgetting", "test_claims.py"),
    (r"train/", "test_stages.py"),
    (r"world/(sounds|spoken)", "test_sounds.py"),
    (r"world/(scenes|draw|atlas)", "test_world.py test_conversations.py"),
    (r"world/texts", "test_texts.py"),
    (r"world/(sketches|pictograms|restyle)", "test_sketches.py"),
    (r"world/(shapes|colours)", "test_shapes.py"),
    (r"world/(grounds|camera)", "test_grounds.py test_sketches.py"),
    (r"world/(writing|glyphs)", "test_writing.py"),
    (r"(world|evaluate)/videos", "test_videos_world.py"),
    (r"world/", "test_conversations.py test_evaluate.py"),
    (r"kernels/library/attention", "test_kernels_attention.py"),
    (r"kernels/library/(gemv|patch_embed|products|rows|sample)", "test_kernels_{}.py"),
    (r"kernels/library/softmax_cross_entropy", "test_kernels_loss.py"),
    (r"kernels/library/(backward|expert_matmul_backward|column_sum)", "test_kernels_backward.py"),
    (r"kernels/library/(rmsnorm|layernorm|swiglu|gelu|common)", "test_kernels_ops.py test_kernels_backward.py"),
    (r"kernels/(library|ops)", "test_kernels_ops.py test_engine.py"),
    (r"kernels/(engine|graph)", "test_engine.py test_engine_gpu.py"),
    (r"kernels/plan", "test_plan.py"),
    (r"kernels/tools", "test_kernel_command.py"),
    (r"kernels/runner", "test_kernels_runner.py test_kernels_checks.py test_kernels_load.py test_kernel_command.py "
                        "test_kernels_devices.py"),
)

# The package without which the tests of a file or a function are skipped, or none
EXTRA = {**dict.fromkeys(("train/eyes/compare.py", "train/eyes/distil.py", "train/eyes/learn.py",
                          "train/eyes/least_squares.py", "world/real_words.py"), "jinja2"),
         ("inputs/audio.py", "by_soundfile"): "soundfile", ("inputs/audio.py", "resampled"): "soxr",
         ("inputs/video.py", "film"): "av", ("inputs/video.py", "time_stamps"): "av"}

# (file, function, the line, what would be written): why no test can tell
EQUIVALENT = {
    ("model/decoder.py", "Rotary.__call__", "angles = angles.astype(np.result_type(dtype, np.float32))",
     "np.float32, dtype"): "the wider of two types, in any order",
    ("storage/codes.py", "Codes.get",
     'return np.concatenate([matrix.codes, matrix.scales.astype("<u2").view(np.uint8)], 1)', "int8"):
        "the bytes are the same, and only they are stored",
    ("train/ablation/table.py", "verdict",
     'says = "no clear difference" if abs(mean) <= half else "worse, as claimed" if gain > 0 else \\', ">="):
        "a difference of 0 is never clear",
    ("world/draw.py", "pictogram",
     "cell = np.pad(cell, ((margin, margin), (margin, margin), (0, 0))).astype(np.uint8)", "int8"):
        "the bytes are the same, and only they are looked at",
    ("world/draw.py", "stamp", "sin = sin if angle > 0 else -sin", ">="): "the sine of 0 is 0",
}


def related(bug):
    """The files of tests that a bug is tried on; {} is what the pattern's group has found."""
    for pattern, tests in RELATED:
        if found := re.match(pattern, bug.file):
            return [f"tests/{name}" for name in tests.format(*found.groups()).split()]
    raise KeyError(f"no tests are known for {bug.file}")


@lru_cache
def bugs_of(room):
    return drawn(room, SEED, MOST, EQUIVALENT)


@pytest.fixture(scope="session")
def folder():
    with checkout() as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("number", range(MOST))
@pytest.mark.parametrize("room", ROOMS)
def test_some_test_fails(room, number, folder):
    bug = bugs_of(room)[number]
    if package := EXTRA.get(bug.file, EXTRA.get((bug.file, bug.function.partition(".")[0]))):
        pytest.importorskip(package)
    assert planted(bug, related(bug), folder) is not None, f"no test of {related(bug)} finds {bug}\n{bug.text}"
