"""Gradients by hand, the loss, AdamW."""
import numpy as np

from .table import mistake, right


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@mistake("swiglu_gradients",
         says="dgate lacks the slope of silu: it is dy * up * silu'(gate), and silu' is not sigmoid alone.")
def slope_of_sigmoid_alone(dy, gate, up):
    return dy * up * sigmoid(gate), dy * gate * sigmoid(gate)


@mistake("swiglu_gradients",
         says="dgate has the slope of sigmoid, s (1 - s); silu is gate * s, whose slope is s (1 + gate (1 - s)).")
def slope_of_the_gate_s_sigmoid(dy, gate, up):
    s = sigmoid(gate)
    return dy * up * s * (1 - s), dy * gate * s


@mistake("swiglu_gradients", says="dup lacks silu: it is dy * silu(gate), not dy * gate.")
def silu_missing_in_dup(dy, gate, up):
    return right("swiglu_gradients", dy=dy, gate=gate, up=up)[0], dy * gate


@mistake("swiglu_gradients", says="dgate and dup are exchanged.")
def gradients_exchanged(dy, gate, up):
    return right("swiglu_gradients", dy=dy, gate=gate, up=up)[::-1]


@mistake("swiglu_gradients", says="dy is missing: these are the slopes; the gradient is dy times them.")
def dy_missing(dy, gate, up):
    return right("swiglu_gradients", dy=np.ones_like(dy), gate=gate, up=up)


def parts(x, eps):
    scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return scale, x * scale


def over_rows(array):
    return array.reshape(-1, array.shape[-1]).sum(0)


@mistake("rms_norm_gradients",
         says="The way through the scale is missing: every x of a row also changes the row's size, so dx = scale * "
              "(du - u * mean(du * u)).")
def scale_taken_for_constant(dy, x, weight, eps):
    scale, u = parts(x, eps)
    return scale * dy * weight, over_rows(dy * u)


@mistake("rms_norm_gradients", says="dweight lacks the broadcast sum: the weight was used by every row.")
def dweight_of_each_row(dy, x, weight, eps):
    return right("rms_norm_gradients", dy=dy, x=x, weight=weight, eps=eps)[0], dy * parts(x, eps)[1]


@mistake("rms_norm_gradients", says="dweight is made of x; the weight multiplies x * scale.")
def dweight_of_x(dy, x, weight, eps):
    return right("rms_norm_gradients", dy=dy, x=x, weight=weight, eps=eps)[0], over_rows(dy * x)


@mistake("rms_norm_gradients", says="dx lacks the weight: what comes back to u is dy * weight.")
def weight_missing_in_dx(dy, x, weight, eps):
    dx, _ = right("rms_norm_gradients", dy=dy, x=x, weight=np.ones_like(weight), eps=eps)
    return dx, over_rows(dy * parts(x, eps)[1])


@mistake("rms_norm_gradients", says="The way through the scale has a sum in place of the mean over D.")
def sum_in_the_scale_s_way(dy, x, weight, eps):
    scale, u = parts(x, eps)
    du = dy * weight
    return scale * (du - u * (du * u).sum(-1, keepdims=True)), over_rows(dy * u)


@mistake("rms_norm_gradients", says="The way through the scale has the wrong sign: a larger row has a SMALLER scale.")
def sign_of_the_scale_s_way(dy, x, weight, eps):
    scale, u = parts(x, eps)
    du = dy * weight
    return scale * (du + u * (du * u).mean(-1, keepdims=True)), over_rows(dy * u)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def one_hot_less(logits, labels, rows):
    p = softmax(logits)
    p[np.flatnonzero(rows), labels[rows]] -= 1
    return np.where(rows[:, None], p, 0)


@mistake("cross_entropy_gradient", says="The mean is missing: divide by the number of rows that count.")
def mean_missing(logits, labels):
    return one_hot_less(logits, labels, labels != -100)


@mistake("cross_entropy_gradient", says="This divides by all rows; the mean is over those whose label is not -100.")
def mean_of_all_rows(logits, labels):
    return one_hot_less(logits, labels, labels != -100) / len(labels)


@mistake("cross_entropy_gradient",
         says="The rows labelled -100 have a gradient here; nothing is learned from them, theirs is 0.")
def ignored_rows_learn(logits, labels):
    rows = labels != -100
    p = softmax(logits)
    p[np.flatnonzero(rows), labels[rows]] -= 1
    return p / rows.sum()


@mistake("cross_entropy_gradient", says="The one-hot is missing: 1 is to be subtracted from the softmax at the label.")
def one_hot_missing(logits, labels):
    rows = labels != -100
    return np.where(rows[:, None], softmax(logits), 0) / rows.sum()


@mistake("cross_entropy_gradient",
         says="The sign is wrong: the gradient of the loss is softmax - one-hot, and training goes against it.")
def one_hot_minus_softmax(logits, labels):
    return -right("cross_entropy_gradient", logits=logits, labels=labels)


@mistake("cross_entropy_gradient",
         says="Off by one: each row is compared with the next row's label. The labels that come are shifted "
              "already: logits[i] predicts labels[i].")
def labels_shifted_again(logits, labels):
    shifted = np.append(labels[1:], -100)
    rows = shifted != -100
    return one_hot_less(logits, shifted, rows) / max(1, rows.sum())


# ------------------------------------------------------------------------------------------------------------ training

def mean_loss(logits, labels, counts):
    z = logits[counts]
    z = z - z.max(-1, keepdims=True)
    return (np.log(np.exp(z).sum(-1)) - z[np.arange(counts.sum()), labels[counts]]).mean()


not_shifted = mistake("next_token_loss",
                      says="The labels are not shifted: each logit is compared with its own token, which it has seen. "
                           "Off by one: the label is the next token.")


@not_shifted
def labels_not_shifted(logits, ids, types):
    return mean_loss(logits, ids, types == 0)


@not_shifted
def labels_not_shifted_but_the_first_left_out(logits, ids, types):
    counts = types == 0
    counts[:, 0] = False
    return mean_loss(logits, ids, counts)


@mistake("next_token_loss", says="The labels are shifted the wrong way: the logits at t predict t + 1, not t - 1.")
def shifted_backwards(logits, ids, types):
    return mean_loss(logits[:, 1:], ids[:, :-1], types[:, :-1] == 0)


@mistake("next_token_loss", says="Tokens of the image are predicted, too; only text is learned.")
def image_tokens_learned(logits, ids, types):
    return mean_loss(logits[:, :-1], ids[:, 1:], np.ones(types[:, 1:].shape, bool))


@mistake("next_token_loss",
         says="The mask is that of the token that predicts; what counts is whether the token that is predicted is "
              "text.")
def mask_not_shifted(logits, ids, types):
    return mean_loss(logits[:, :-1], ids[:, 1:], types[:, :-1] == 0)


@mistake("next_token_loss",
         says="For large logits the loss is infinite: exp has become 0 or infinite before the log. log softmax(x) is "
              "x - log(sum(exp(x))), once the largest number of each row is subtracted.")
def log_of_zero(logits, ids, types):
    p = softmax(logits[:, :-1])[types[:, 1:] == 0]
    with np.errstate(divide="ignore"):
        return -np.log(p[np.arange(len(p)), ids[:, 1:][types[:, 1:] == 0]]).mean()


@mistake("next_token_loss", says="The losses are added up; the loss is their mean.")
def losses_added(logits, ids, types):
    return right("next_token_loss", logits=logits, ids=ids, types=types) * (types[:, 1:] == 0).sum()


@mistake("next_token_loss",
         says="Each row has its own mean, and these are averaged: mean over the batch axis. All tokens weigh the "
              "same.")
def mean_of_rows(logits, ids, types):
    return np.mean([right("next_token_loss", logits=logits[b:b + 1], ids=ids[b:b + 1], types=types[b:b + 1])
                    for b in range(len(ids))])


def step_of(w, m, v, step, rate, betas, eps, decay):
    m, v = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return w * (1 - rate * decay) - rate * m / (np.sqrt(v) + eps)


def means(g, m, v, betas):
    return betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g


@mistake("adamw", says="The decay goes through the moments, as in Adam with L2: AdamW shrinks w itself.")
def decay_through_the_moments(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g + decay * w, m, v, betas)
    return step_of(w, m, v, step, rate, betas, eps, 0), m, v


@mistake("adamw", says="The bias correction is missing: divide m by 1 - b1^step and v by 1 - b2^step.")
def correction_missing(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g, m, v, betas)
    return w * (1 - rate * decay) - rate * m / (np.sqrt(v) + eps), m, v


@mistake("adamw", says="The decay is missing.")
def decay_missing(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g, m, v, betas)
    return step_of(w, m, v, step, rate, betas, eps, 0), m, v


@mistake("adamw", says="The decay lacks the rate: w shrinks by rate * decay in a step.")
def decay_without_rate(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g, m, v, betas)
    return step_of(w, m, v, step, rate, betas, eps, 0) - decay * w, m, v


@mistake("adamw", says="eps is under the root; it is added to the root.")
def eps_under_the_root(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g, m, v, betas)
    moved = m / (1 - betas[0] ** step) / np.sqrt(v / (1 - betas[1] ** step) + eps)
    return w * (1 - rate * decay) - rate * moved, m, v


@mistake("adamw",
         says="The corrected m and v come back: the corrections are for this step's w alone, the next step needs m "
              "and v as they are.")
def corrected_moments_kept(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g, m, v, betas)
    return step_of(w, m, v, step, rate, betas, eps, decay), m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)


@mistake("adamw", says="w goes up the gradient; the step is subtracted.")
def uphill(w, g, m, v, step, rate, betas, eps, decay):
    m, v = means(g, m, v, betas)
    return 2 * w * (1 - rate * decay) - step_of(w, m, v, step, rate, betas, eps, decay), m, v
