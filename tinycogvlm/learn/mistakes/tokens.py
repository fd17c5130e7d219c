"""Byte pair encoding; decoding."""
import numpy as np

from ..tokens import encode, merge_pair
from .table import mistake, right


@mistake("most_frequent_pair", says="This is the rarest pair; the most frequent one is asked for.")
def rarest_pair(ids):
    pairs = np.stack([ids[:-1], ids[1:]], 1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return found[counts.argmin()]


@mistake("most_frequent_pair",
         says="These are the two most frequent ids; neighbours are to be counted, in their order.")
def most_frequent_ids(ids):
    found, counts = np.unique(ids, return_counts=True)
    return found[np.argsort(-counts, kind="stable")][:2]


@mistake("most_frequent_pair", says="The order within a pair is lost: 1 2 and 2 1 are two pairs.")
def pairs_sorted(ids):
    found, counts = np.unique(np.sort(np.stack([ids[:-1], ids[1:]], 1)), axis=0, return_counts=True)
    return found[counts.argmax()]


@mistake("most_frequent_pair",
         says="Only every second pair is counted; each id but the last begins one: 1 2 3 has the pairs 1 2 and 2 3.")
def every_second_pair(ids):
    pairs = ids[:len(ids) // 2 * 2].reshape(-1, 2)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return found[counts.argmax()]


@mistake("most_frequent_pair",
         says="Of pairs that are as frequent, this takes the one met first; the smallest is asked for.")
def first_met(ids):
    pairs = list(zip(ids.tolist(), ids[1:].tolist()))
    return np.array(max(pairs, key=pairs.count))


@mistake("merge_pair",
         says="Pairs that overlap are merged, too: of 7 7 7 the first two become one, and the third stays. Step "
              "over both ids of a pair.")
def overlaps_merged(ids, pair, new):
    row, result = ids.tolist(), []
    for i, id in enumerate(row):
        if tuple(row[i:i + 2]) == tuple(pair):
            result.append(new)
        elif tuple(row[i - 1:i + 1]) != tuple(pair) or i == 0:
            result.append(id)
    return np.array(result, int)


@mistake("merge_pair", says="Only the first place is merged; the pair may stand at several.")
def merged_once(ids, pair, new):
    row = ids.tolist()
    for i in range(len(row) - 1):
        if tuple(row[i:i + 2]) == tuple(pair):
            return np.array(row[:i] + [new] + row[i + 2:], int)
    return ids


@mistake("merge_pair", says="The last id is lost: it has no next one, but it stays.")
def last_lost(ids, pair, new):
    if tuple(ids[-2:]) == tuple(pair):
        return merge_pair(ids, pair, new)
    return merge_pair(ids, pair, new)[:-1]


@mistake("merge_pair", says="The pair in the reverse order is merged; its first id stands on the left.")
def pair_reversed(ids, pair, new):
    return merge_pair(ids, pair[::-1], new)


@mistake("encode",
         says="The text is gone through from left to right and merged greedily; row 0 of the table goes first, "
              "wherever in the text its pair is.")
def greedy_from_the_left(ids, merges):
    table = {(left, new_right): new for left, new_right, new in merges.tolist()}
    row, i = ids.tolist(), 0
    while i < len(row) - 1:
        if tuple(row[i:i + 2]) in table:
            row[i:i + 2] = [table[tuple(row[i:i + 2])]]
            i = max(i - 1, 0)
        else:
            i += 1
    return np.array(row, int)


@mistake("encode", says="The table is gone through from its last row up; row 0 was learned first and goes first.")
def table_upside_down(ids, merges):
    return encode(ids, merges[::-1])


@mistake("encode",
         says="The table is gone through once; after each merge the search begins at row 0 again, whose pair may be "
              "there now.")
def table_once(ids, merges):
    for left, right_id, new in merges.tolist():
        ids = merge_pair(ids, (left, right_id), new)
    return ids


@mistake("encode", says="Only one merge is made; it goes on until no pair of neighbours is in the table.")
def one_merge(ids, merges):
    pairs = set(zip(ids.tolist(), ids[1:].tolist()))
    row = next((row for row in merges.tolist() if (row[0], row[1]) in pairs), None)
    return ids if row is None else merge_pair(ids, row[:2], row[2])


# ------------------------------------------------------------------------------------------------------------ decoding

@mistake("append_to_cache", says="The new tokens stand in front; they follow on those of the cache.")
def new_ones_in_front(keys, values, length, k, v):
    return np.concatenate([k, keys[:, :, :length]], 2), np.concatenate([v, values[:, :, :length]], 2)


@mistake("append_to_cache", says="Only the new tokens come back; the ones of the cache are to be seen, too.")
def old_ones_lost(keys, values, length, k, v):
    return k, v


@mistake("append_to_cache", says="The cached keys are taken for the values, too; each has a cache of its own.")
def keys_for_values(keys, values, length, k, v):
    return right("append_to_cache", keys=keys, values=keys, length=length, k=k, v=v)


@mistake("append_to_cache",
         says="The whole room of the cache comes back, with places that were never written; only length + T tokens "
              "are there.")
def whole_room(keys, values, length, k, v):
    def filled(cache, new):
        cache = cache.copy()
        cache[:, :, length:length + new.shape[2]] = new
        return cache
    return filled(keys, k), filled(values, v)


@mistake("append_to_cache",
         says="The new tokens stand behind the cache's whole room; they go behind its first `length`.")
def behind_the_room(keys, values, length, k, v):
    return np.concatenate([keys, k], 2), np.concatenate([values, v], 2)


def softmax(x):
    y = np.exp(x - x.max())
    return y / y.sum()


def cut(p, keep):
    """The probabilities of the kept ranks, again 1 together."""
    order = np.argsort(-p, kind="stable")
    result = np.zeros_like(p)
    order = order[keep(p[order])]
    result[order] = p[order] / p[order].sum()
    return result


def probabilities(logits, temperature, top_k, top_p, inside=lambda p, top_p: np.cumsum(p) - p < top_p):
    if temperature == 0:
        return (np.arange(len(logits)) == logits.argmax()).astype(logits.dtype)
    p = cut(softmax(logits / temperature), lambda p: np.arange(len(p)) < (top_k or len(p)))
    return p if top_p is None else cut(p, lambda p: inside(p, top_p))


@mistake("next_probabilities",
         says="The token with which the sum passes top_p is cut off; it stays: the nucleus reaches top_p.")
def nucleus_too_small(logits, temperature, top_k, top_p):
    return probabilities(logits, temperature, top_k, top_p,
                         lambda p, top_p: (np.cumsum(p) <= top_p) | (np.arange(len(p)) == 0))


@mistake("next_probabilities", says="What stays after the cut is not brought back to the sum 1.")
def sum_not_restored(logits, temperature, top_k, top_p):
    if temperature == 0:
        return probabilities(logits, temperature, top_k, top_p)
    p = softmax(logits / temperature)
    return np.where(probabilities(logits, temperature, top_k, top_p) > 0, p, 0)


@mistake("next_probabilities", says="The logits are multiplied by the temperature; they are divided: cooler is surer.")
def multiplied_by_the_temperature(logits, temperature, top_k, top_p):
    return probabilities(logits, temperature and 1 / temperature, top_k, top_p)


@mistake("next_probabilities",
         says="The temperature comes after the cut; the nucleus is of the probabilities at that temperature.")
def temperature_last(logits, temperature, top_k, top_p):
    if temperature == 0:
        return probabilities(logits, 0, top_k, top_p)
    kept = probabilities(logits, 1.0, top_k, top_p) > 0
    return softmax(np.where(kept, logits / temperature, -np.inf))


@mistake("next_probabilities",
         says="The nucleus is taken before top_k; top_k comes first, and its tokens sum to 1 again.")
def nucleus_before_top_k(logits, temperature, top_k, top_p):
    p = probabilities(logits, temperature, None, top_p)
    return p if temperature == 0 else cut(p, lambda p: np.arange(len(p)) < (top_k or len(p)))


@mistake("next_probabilities", says="top_p is left out.")
def no_nucleus(logits, temperature, top_k, top_p):
    return probabilities(logits, temperature, top_k, None)


@mistake("next_probabilities",
         says="The result is in order of rank; each probability belongs at its token's own place.")
def sorted_by_rank(logits, temperature, top_k, top_p):
    return -np.sort(-probabilities(logits, temperature, top_k, top_p))


def run(step, choose, ids, limit, eos, feed, keep=True):
    """The loop; feed(all tokens so far, the new ones) is what the next step reads."""
    tokens, cache, new = ids, None, []
    while len(new) < limit:
        logits, cache = step(tokens, cache if keep else None)
        new.append(choose(logits))
        if new[-1] == eos:
            break
        tokens = np.array(feed([*ids.tolist(), *new], new))
    return np.array(new)


@mistake("decode",
         says="The whole text is read again at each step, behind a cache that holds it already. Only the new token "
              "is to be read.")
def whole_text_again(step, choose, ids, limit, eos):
    return run(step, choose, ids, limit, eos, lambda all, new: all)


@mistake("decode", says="All new tokens are read again at each step; all but the last are in the cache.")
def new_tokens_again(step, choose, ids, limit, eos):
    return run(step, choose, ids, limit, eos, lambda all, new: new)


@mistake("decode", says="The cache is not handed on: each step sees its one token and nothing before it.")
def cache_forgotten(step, choose, ids, limit, eos):
    return run(step, choose, ids, limit, eos, lambda all, new: new[-1:], keep=False)


@mistake("decode", says="It does not stop at eos.")
def eos_ignored(step, choose, ids, limit, eos):
    return right("decode", step=step, choose=choose, ids=ids, limit=limit, eos=None)


@mistake("decode", says="eos is left off; where it comes, it is the last of the new tokens.")
def eos_left_off(step, choose, ids, limit, eos):
    new = right("decode", step=step, choose=choose, ids=ids, limit=limit, eos=eos)
    return new[new != eos]


@mistake("decode", says="The prompt comes back in front; only the new tokens are asked for.")
def prompt_in_front(step, choose, ids, limit, eos):
    return np.concatenate([ids, right("decode", step=step, choose=choose, ids=ids, limit=limit, eos=eos)])


@mistake("decode", says="The first choice is lost: the logits behind the prompt already say the first new token.")
def first_choice_lost(step, choose, ids, limit, eos):
    new = right("decode", step=step, choose=choose, ids=ids, limit=limit + 1, eos=None)[1:]
    ends = np.flatnonzero(new == eos)
    return new[:ends[0] + 1] if len(ends) else new


@mistake("left_pad",
         says="The rows are padded on the right: a short row's next token would then come after its padding.")
def padded_on_the_right(rows, pad):
    ids, mask = np.full((len(rows), max(map(len, rows))), pad), np.zeros((len(rows), max(map(len, rows))), int)
    for b, row in enumerate(rows):
        ids[b, :len(row)], mask[b, :len(row)] = row, 1
    return ids, mask


@mistake("left_pad",
         says="The mask is made of the ids: a token of a text that happens to have the pad's id is hidden, too. Use"
              " the lengths.")
def mask_from_ids(rows, pad):
    ids, _ = right("left_pad", rows=rows, pad=pad)
    return ids, (ids != pad).astype(int)


@mistake("left_pad", says="The mask is upside down: 1 is a real token, 0 is padding.")
def mask_inverted(rows, pad):
    ids, mask = right("left_pad", rows=rows, pad=pad)
    return ids, 1 - mask
