"""CogVLM's relatives, one paper in one file, in the style of model/: other eyes, other bridges, other ways in.

How a relative is added:

1.  A file here, such as clip.py. A part of it is f(x, p, config) -> y, pull, with `shapes(config)` beside it, the names
    of all its tensors. p (nn.tree.Params) has the tensors under the names of the original's checkpoint; pull(dy, g)
    adds their gradients to g (nn.tree.Gradients) and returns those of the inputs. `config` is a frozen dataclass of the
    geometry, read from config.json's fields with fields.Fields. Intermediates are told by `trace.record`.
2.  In it a table CASES = {"clip_vision": registry.Case(config, shapes, run), ...}: how `tinycogvlm verify` computes a
    golden case of that name again. No other file has to know of it: registry.py reads the tables of all files here.
3.  Where the original has checkpoints that people load: CHECKPOINTS = [registry.Checkpoint(...), ...], by which `load`
    and `info` know the folder by its config.json, and a class of what `load` returns, such as pair.Pair.
4.  The case in tests/golden/components, one safetensors file and a line of components.json: test_relatives.py then
    compares all its tensors, in float32 and in float64, and its gradients with differences.
5.  What others need as well: a block in transformer.py or a file of its own; an op in nn/, with a contract.
"""
