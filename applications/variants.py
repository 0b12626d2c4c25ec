"""What the runs of an experiment are named by: a join, blocks that are added, settings that are changed."""

import re

from applications.errors import UserError


def parsed(variant):
    """Returns the parts of a variant's name, `WORD[+BLOCKS][@KEY=VALUE]...`.

    Returns:
        The word, the number of further blocks, and the list of `"key=value"`.

    Example:
    >>> parsed("add+4"), parsed("rw+lr@rank=8@scale=1")
    (('add', 4, []), ('rw+lr', 0, ['rank=8', 'scale=1']))
    """
    name, *settings = variant.split("@")
    blocks = re.search(r"\+(\d+)$", name)
    return (name[: blocks.start()], int(blocks[1]), settings) if blocks else (name, 0, settings)


def check_variants(variants, words):
    """Refuses variants that are unknown or named twice.

    Raises:
        UserError: If the word of one of the names `variants` is not in `words`, or a name is there twice.
    """
    check_names(variants, words, word=lambda name: parsed(name)[0])


def check_names(names, known, word=None):
    """Refuses names that are unknown or there twice.

    Raises:
        UserError: If a name, or what the function `word` returns of it, is not in `known`, or the name is there twice.
    """
    for name in names:
        if (word(name) if word else name) not in known:
            raise UserError(f"unknown variant {name!r}; known: {', '.join(dict.fromkeys(known))}")
        if names.count(name) > 1:
            raise UserError(f"the variant {name!r} is named twice")
