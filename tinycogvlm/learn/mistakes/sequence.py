"""One sequence of image and text."""
import numpy as np

from .table import mistake, right


@mistake("sequence", says="The images run together: number their tokens 1, 2, ..., so that they can be told apart.")
def images_alike(**arguments):
    ids, types = right("sequence", **arguments)
    return ids, (types > 0).astype(int)


@mistake("sequence", says="bos is missing: every row begins with it, an image or not.")
def bos_missing(**arguments):
    return tuple(array[:, 1:] for array in right("sequence", **arguments))


@mistake("sequence", says="The image stands in front of bos; it comes right behind.")
def image_before_bos(text, images, image_tokens, bos, pad):
    n = images * image_tokens
    places = [*range(1, n + 1), 0, *range(n + 1, n + 1 + len(text))]
    return tuple(array[:, places] for array in right("sequence", text=text, images=images, image_tokens=image_tokens,
                                                     bos=bos, pad=pad))


@mistake("sequence", says="The image stands behind the text here; it comes between bos and the text.")
def image_behind_text(text, images, image_tokens, bos, pad):
    n = images * image_tokens
    places = [0, *range(n + 1, n + 1 + len(text)), *range(1, n + 1)]
    return tuple(array[:, places] for array in right("sequence", text=text, images=images, image_tokens=image_tokens,
                                                     bos=bos, pad=pad))


@mistake("sequence", says="Two places too many: image_tokens counts boi and eoi already.")
def ends_counted_twice(image_tokens, **more):
    return right("sequence", image_tokens=image_tokens + 2, **more)


@mistake("merge", says="The image's places still hold the pad's row of the table; the image's rows take their place.")
def pad_left_standing(ids, types, table, images):
    return table[ids]


@mistake("merge", says="The image is added to the pad's row of the table; it takes its place.")
def added_to_the_pad(ids, types, table, images):
    return right("merge", ids=ids, types=types, table=table, images=images) + (types > 0)[..., None] * table[ids]


@mistake("merge", says="Every row of the batch begins with the first image again; the images are those of all rows, "
                       "in the order of reading.")
def first_image_in_every_row(ids, types, table, images):
    y, rows = table[ids], images.reshape(-1, table.shape[1])
    for b in range(len(ids)):
        y[b, types[b] > 0] = rows[:(types[b] > 0).sum()]
    return y


@mistake("merge", says="The places of the last image and the first are exchanged: they are filled in the order of "
                       "reading.")
def images_backwards(ids, types, table, images):
    return right("merge", ids=ids, types=types, table=table, images=images[::-1])


@mistake("may_see", says="Padding can be seen: besides s <= t the key's own mask must be 1.")
def padding_seen(mask):
    return np.broadcast_to(np.tri(mask.shape[1], dtype=bool), (*mask.shape, mask.shape[1]))


@mistake("may_see", says="A token does not see itself here: s <= t, not s < t.")
def not_itself(mask):
    return right("may_see", mask=mask) & ~np.eye(mask.shape[1], dtype=bool)


@mistake("may_see", says="Every query sees the whole row, also what comes behind it: the causal part is missing.")
def future_seen(mask):
    return np.broadcast_to(mask[:, None] != 0, (*mask.shape, mask.shape[1]))


@mistake("may_see", says="The mask of the QUERY is asked; it is the key that must be no padding.")
def mask_of_the_query(mask):
    return np.tri(mask.shape[1], dtype=bool) & (mask[:, :, None] != 0)


@mistake("may_see", says="Queries and keys are exchanged: entry [b, t, s] is query t and key s.")
def transposed(mask):
    return right("may_see", mask=mask).swapaxes(1, 2)
