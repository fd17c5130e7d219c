"""What a token may see, as the earlier vision-language models have it: one small function for each rule.

True means visible. A mask of keys alone is (B, S), as ops.attention takes it; one that differs from query to query is
(B, 1, T, S), as nn.attention.attend takes it, or broadcasts to that.
"""
from ..nn.arrays import namespace
from ..nn.swap import op


@op
def pad_mask(ids, pad=0):
    """Which tokens are no padding                          ids (B, T) -> (B, T)"""
    return ids != pad


@op
def causal_mask(length, xp):
    """Each token sees itself and those before it           -> (1, 1, T, T)"""
    return xp.tri(length, dtype=bool)[None, None]


@op
def prefix_mask(prefix, length):
    """All see the prefix, as its own tokens do; the rest is causal                  prefix (B,) -> (B, 1, T, T)

    "PrefixLM": 0 makes it a causal mask, the whole length one where all see all.
    """
    xp = namespace(prefix)
    return causal_mask(length, xp) | (xp.arange(length) < prefix[:, None, None, None])


@op
def cls_mask(ids, pad=0, shifted=False):
    """Which tokens are no padding, with a CLS after the text            ids (B, T) -> (B, T + 1)

    With causal attention no word sees CLS, and CLS sees every word. shifted: as the released CoCas were trained, whose
    masks begin one place too late: the first padding token is visible, and a CLS right after padding is not.
    """
    xp = namespace(ids)
    seen, always = pad_mask(ids, pad), xp.ones((len(ids), 1), bool)
    return xp.concatenate([always, seen] if shifted else [seen, always], 1)


@op
def media_mask(times, media, latents, immediate=True):
    """Which latents a token may see                        times (B, T) -> (B, 1, T, media * latents) bool

    times: how many media it has met, see flamingo.text_times. immediate: those of the last medium before it (or at it)
    alone, times == number; else those of all before it. A token that has met none sees none; nor does, if `immediate`,
    one that has met more media than there are.
    """
    xp = namespace(times)
    number = (xp.arange(media) + 1).repeat(latents, 0)
    times = times[:, None, :, None]
    return times == number if immediate else times >= number
