"""40 Other eyes: a solution"""
import numpy as np


def sigmoid_loss(image, text, logit_scale, logit_bias):
    image = image / np.linalg.norm(image, axis=-1, keepdims=True)
    text = text / np.linalg.norm(text, axis=-1, keepdims=True)
    logits = float(np.exp(logit_scale)) * (image @ text.T) + logit_bias
    z = np.where(np.eye(len(image), dtype=bool), logits, -logits)
    return (np.maximum(-z, 0) + np.log1p(np.exp(-abs(z)))).sum() / len(image)


def rotary_2d(x, grid, reference):
    d = x.shape[-1]
    frequencies = 10000.0 ** (-4 * np.arange(d // 4) / d)
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    angles = np.concatenate([(rows / grid[0] * reference[0])[:, None] * frequencies,
                             (columns / grid[1] * reference[1])[:, None] * frequencies], -1)
    cos, sin = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    y = np.empty_like(x)
    y[..., ::2] = x[..., ::2] * cos - x[..., 1::2] * sin
    y[..., 1::2] = x[..., 1::2] * cos + x[..., ::2] * sin
    return y


def standardised(weight, gain, eps):
    mean, variance = weight.mean((1, 2, 3), keepdims=True), weight.var((1, 2, 3), keepdims=True)
    return (weight - mean) * gain / np.sqrt(weight[0].size * (variance + eps))


def clip_units(weight, gradient, share):
    w, g = (np.sqrt((array ** 2).sum(1, keepdims=True)) for array in (weight, gradient))
    return gradient * np.minimum(1, share * np.maximum(w, 1e-3) / np.maximum(g, 1e-6))
