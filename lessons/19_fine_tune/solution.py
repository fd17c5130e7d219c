"""19 Fine-tune it yourself, solved"""


def lora_merge(w, a, b, alpha):
    return w + alpha / len(a) * (b @ a)


def lora_gradients(dw, a, b, alpha):
    s = alpha / len(a)
    return s * (b.T @ dw), s * (dw @ a.T)
