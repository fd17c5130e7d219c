"""Lesson 51: without an encoder: rows of patches, the attention under a token, the loss of a teacher."""
import numpy as np

from ...contracts import Contract, random
from ...contracts.contract import EXACT, TOLERANCE
from ...nn.more_ops import normalise
from ...nn.tree import Params
from ...relatives import eve
from ..exercise import Exercise

# ----------------------------------------------------------------------------------------------------- rows_with_split


def rows_with_split(x, cls, split):
    """CLS; then patch by patch, and SPLIT where a row ends"""
    h, w, _ = x.shape
    found = [cls]
    for row in range(h):
        for column in range(w):
            found.append(x[row, column])
        found.append(split)
    return np.array(found)


def rows_with_split_cases():
    for label, h, w in (("2 rows of 3", 2, 3), ("3 rows of 2", 3, 2), ("one row", 1, 4), ("one column", 3, 1),
                        ("a square", 4, 4)):
        yield label, dict(x=random(h, w, 3), cls=random(3, seed=1), split=random(3, seed=2))


def package_rows_with_split(x, cls, split):
    return eve.in_rows(x, cls, Params({"split_embedding": split}))[0]


ROWS_WITH_SPLIT = Exercise(Contract("rows_with_split", rows_with_split, rows_with_split_cases, EXACT),
                           package_rows_with_split, (eve.in_rows,), toy=dict(
                               x=np.arange(1.0, 7).reshape(2, 3, 1), cls=np.array([9.0]), split=np.array([0.0])))


@ROWS_WITH_SPLIT.mistake("SPLIT is missing after the last row; the text would begin in the middle of it.")
def no_last_split(x, cls, split):
    return rows_with_split(x, cls, split)[:-1]


@ROWS_WITH_SPLIT.mistake("SPLIT stands before each row; it should come after it.")
def split_first(x, cls, split):
    h, _, C = x.shape
    rows = np.concatenate([np.broadcast_to(split, (h, 1, C)), x], 1)
    return np.concatenate([cls[None], rows.reshape(-1, C)])


@ROWS_WITH_SPLIT.mistake("SPLITs are a row below the picture here; each row has one at its end.")
def row_of_splits(x, cls, split):
    _, w, C = x.shape
    return np.concatenate([cls[None], x.reshape(-1, C), np.broadcast_to(split, (w, C))])


@ROWS_WITH_SPLIT.mistake("CLS is missing: it comes first.")
def no_cls(x, cls, split):
    return rows_with_split(x, cls, split)[1:]


@ROWS_WITH_SPLIT.mistake("CLS comes last here; it should come first.")
def cls_last(x, cls, split):
    return np.roll(rows_with_split(x, cls, split), -1, 0)


@ROWS_WITH_SPLIT.mistake("The patches are read column by column; read them row by row.")
def columns_read(x, cls, split):
    return rows_with_split(x.swapaxes(0, 1), cls, split)


@ROWS_WITH_SPLIT.mistake("There is one SPLIT for the whole picture; each row has its own.")
def one_split(x, cls, split):
    return np.concatenate([cls[None], x.reshape(-1, x.shape[-1]), split[None]])


@ROWS_WITH_SPLIT.mistake("The ends of the rows are missing: without SPLIT nothing tells how long a row is.")
def no_split(x, cls, split):
    return np.concatenate([cls[None], x.reshape(-1, x.shape[-1])])


@ROWS_WITH_SPLIT.mistake("CLS and SPLIT have changed places.")
def changed_places(x, cls, split):
    return rows_with_split(x, split, cls)


# ---------------------------------------------------------------------------------------------------------- look_under

def look_under(q, k, v, heads):
    """Query by query and head by head"""
    (N, S, C), y = k.shape, np.zeros(q.shape)
    d = C // heads
    for n in range(N):
        for head in range(heads):
            mine = slice(head * d, (head + 1) * d)
            scores = [(q[n, mine] * k[n, s, mine]).sum() / np.sqrt(C) for s in range(S)]
            weights = [np.exp(score - max(scores)) for score in scores]
            for s in range(S):
                y[n, mine] += weights[s] / sum(weights) * v[n, s, mine]
    return y


def look_under_cases():
    def case(N, S, C, heads):
        return dict(q=random(N, C), k=random(N, S, C, seed=1), v=random(N, S, C, seed=2), heads=heads)
    yield "the four patches under a token", case(3, 4, 8, 2)
    yield "one head", case(2, 4, 6, 1)
    yield "eight heads", case(2, 4, 16, 8)
    yield "CLS and all tokens", case(1, 12, 8, 4)
    yield "one key", case(2, 1, 4, 2)
    yield "large numbers", dict(q=40 * random(2, 8), k=40 * random(2, 4, 8, seed=1), v=random(2, 4, 8, seed=2), heads=2)


LOOK_UNDER = Exercise(Contract("look_under", look_under, look_under_cases, TOLERANCE),
                      lambda **arguments: eve.one_query.own(**arguments)[0], (eve.one_query, eve.gathered),
                      toy=dict(q=np.array([[0.75, 1]]), **dict.fromkeys("kv", np.array([[[0.0, 1], [0, 1], [0, 1], [3, 1]]])),
                               heads=1))


def attend(q, k, v, heads, scale, axis=1):
    N, S, C = k.shape
    scores = (q.reshape(N, 1, heads, -1) * k.reshape(N, S, heads, -1)).sum(-1) / scale
    weights = np.exp(scores - scores.max(axis, keepdims=True))
    weights = weights / weights.sum(axis, keepdims=True)
    return (weights[..., None] * v.reshape(N, S, heads, -1)).sum(1).reshape(N, C)


@LOOK_UNDER.mistake("The scale is that of a head, sqrt(C / heads); EVE divides by the root of the whole width, sqrt(C).")
def scale_of_a_head(q, k, v, heads):
    return attend(q, k, v, heads, np.sqrt(q.shape[1] // heads))


@LOOK_UNDER.mistake("The scale is missing: divide the scores by sqrt(C).")
def no_scale(q, k, v, heads):
    return attend(q, k, v, heads, 1)


@LOOK_UNDER.mistake("The scores are divided by C; by its square root is right.")
def width_for_root(q, k, v, heads):
    return attend(q, k, v, heads, q.shape[1])


@LOOK_UNDER.mistake("This is one head over all C numbers; each head has scores and a softmax of its own.")
def one_head(q, k, v, heads):
    return attend(q, k, v, 1, np.sqrt(q.shape[1]))


@LOOK_UNDER.mistake("This is one head over all C numbers, and the scale is missing: heads of C / heads, scores over sqrt(C).")
def one_head_without_scale(q, k, v, heads):
    return attend(q, k, v, 1, 1)


@LOOK_UNDER.mistake("Softmax runs over the heads; it should run over the S keys.")
def softmax_over_heads(q, k, v, heads):
    return attend(q, k, v, heads, np.sqrt(q.shape[1]), 2)


@LOOK_UNDER.mistake("This is the plain mean of the values: the scores play no part.")
def plain_mean(q, k, v, heads):
    return v.mean(1)


@LOOK_UNDER.mistake("These are mixtures of the keys; the values are to be mixed.")
def keys_mixed(q, k, v, heads):
    return attend(q, k, k, heads, np.sqrt(q.shape[1]))


@LOOK_UNDER.mistake("The query is added to the result; here only what attention finds is wanted.")
def query_added(q, k, v, heads):
    return q + attend(q, k, v, heads, np.sqrt(q.shape[1]))


@LOOK_UNDER.mistake("The heads are taken crosswise: a head has neighbouring numbers, so reshape to (heads, C / heads).")
def heads_crosswise(q, k, v, heads):
    def crossed(x):
        return x.reshape(*x.shape[:-1], -1, heads).swapaxes(-1, -2).reshape(x.shape)
    y = attend(crossed(q), crossed(k), crossed(v), heads, np.sqrt(q.shape[1]))
    return y.reshape(len(y), heads, -1).swapaxes(-1, -2).reshape(y.shape)


# ------------------------------------------------------------------------------------------------------- aligning_loss

def aligning_loss(student, teacher):
    """Patch by patch, the cosine; 1 minus their mean"""
    total = 0.0
    for s, t in zip(student, teacher):
        total += (s * t).sum() / (np.sqrt((s * s).sum()) * np.sqrt((t * t).sum()))
    return 1 - total / len(student)


def aligning_loss_cases():
    yield "four patches", dict(student=random(4, 6), teacher=random(4, 6, seed=1))
    yield "3 4 and 4 3", dict(student=np.array([[3.0, 4]]), teacher=np.array([[4.0, 3]]))
    yield "the same direction", dict(student=2 * random(3, 5), teacher=random(3, 5))
    yield "against each other", dict(student=-random(3, 5), teacher=random(3, 5))
    yield "large and small vectors", dict(student=np.array([[100.0, 0], [0, 0.1]]), teacher=np.array([[1.0, 1], [1, 1]]))


def package_aligning_loss(student, teacher):
    return 1 - (normalise(student)[0] * normalise(teacher)[0]).sum(-1).mean()


ALIGNING_LOSS = Exercise(Contract("aligning_loss", aligning_loss, aligning_loss_cases, TOLERANCE),
                         package_aligning_loss, (eve.aligning_loss, normalise),
                         toy=dict(student=np.array([[3.0, 4]]), teacher=np.array([[4.0, 3]])))


def cosines(student, teacher):
    return (student * teacher).sum(-1) / (np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1))


@ALIGNING_LOSS.mistake("This is the mean cosine itself, which grows as they agree; 1 minus it is the loss.")
def cosine_itself(student, teacher):
    return cosines(student, teacher).mean()


@ALIGNING_LOSS.mistake("The 1 is missing: this is minus the cosine, whose least value is -1.")
def minus_cosine(student, teacher):
    return -cosines(student, teacher).mean()


@ALIGNING_LOSS.mistake("This is the sum over the patches; the mean is wanted.")
def summed(student, teacher):
    return (1 - cosines(student, teacher)).sum()


@ALIGNING_LOSS.mistake("This is one cosine of all numbers together; each patch has its own, and then comes the mean.")
def one_cosine(student, teacher):
    return 1 - cosines(student.ravel(), teacher.ravel())


@ALIGNING_LOSS.mistake("The lengths are missing: divide each dot product by both of them.")
def not_normalised(student, teacher):
    return 1 - (student * teacher).sum(-1).mean()


@ALIGNING_LOSS.mistake("The dot products are divided by squared lengths; take the square root of each sum of squares.")
def squared_lengths(student, teacher):
    return 1 - ((student * teacher).sum(-1) / ((student ** 2).sum(-1) * (teacher ** 2).sum(-1))).mean()


@ALIGNING_LOSS.mistake("This is the squared distance of the vectors as they are; only their directions count.")
def distance(student, teacher):
    return ((student - teacher) ** 2).sum(-1).mean()


@ALIGNING_LOSS.mistake("This is the mean squared difference of the numbers; only the directions of the vectors count.")
def mean_squared(student, teacher):
    return ((student - teacher) ** 2).mean()


@ALIGNING_LOSS.mistake("This is one number for each patch; the loss is 1 minus the mean of the cosines.")
def one_for_each(student, teacher):
    return 1 - cosines(student, teacher)


@ALIGNING_LOSS.mistake("This is the squared distance of unit vectors, 2 - 2 cos: twice the loss.")
def twice(student, teacher):
    return 2 * aligning_loss(student, teacher)


@ALIGNING_LOSS.mistake("Lengths are taken over the patches, axis 0; they are over the C numbers of each patch, axis -1.")
def wrong_axis(student, teacher):
    lengths = np.linalg.norm(student, axis=0) * np.linalg.norm(teacher, axis=0)
    return 1 - (student * teacher / lengths).sum(-1).mean()
