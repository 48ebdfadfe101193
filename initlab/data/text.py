"""Text that every Python has: the help topics of its standard library (`pydoc_data.topics`), as tokens.

A token is a character. White space is one blank within a paragraph and a line's end after it; each paragraph is taken
once, though topics quote each other, and none of the validation topics is in the training text. The topics differ
from one version of Python to the next, so results hold for one text, whose hash is `digest`; the number of tokens and
the vocabulary are the same for all.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from initlab.data.examples import Examples
from initlab.data.facts import TRAIN_CHARACTERS, VAL_CHARACTERS
from initlab.errors import UserError

# All printable ASCII; whatever else occurs, quotation marks mostly, is one further token.
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
OTHER = len(CHARACTERS)
VAL_TOPICS = ("debugger", "formatstrings")


def topics(length: int) -> Examples:
    """Both texts in sequences (N, length) of tokens, whose labels are the tokens one further on."""
    train, val = (torch.tensor(tokens_of(text)) for text in topic_texts())
    return Examples(*in_sequences(train, length), *in_sequences(val, length), num_classes=OTHER + 1)


def in_sequences(tokens: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Tokens in a row cut into sequences (N, length), and each one's next tokens; a rest is left out."""
    whole = (len(tokens) - 1) // length * length
    return tokens[:whole].view(-1, length), tokens[1 : whole + 1].view(-1, length)


@cache
def topic_texts() -> tuple[str, str]:
    """The training and the validation text, `TRAIN_CHARACTERS` + 1 and `VAL_CHARACTERS` + 1 characters.

    Raises:
        UserError: a Python without its help topics, or with shorter ones.
    """
    try:
        topics: dict[str, str] = import_module("pydoc_data.topics").topics
        val = paragraphs(topics[name] for name in VAL_TOPICS)
    except (ImportError, KeyError) as error:
        raise UserError(f"data.name: topics needs the help topics of Python (got no {error.args[0]})") from None
    train = paragraphs(topics[name] for name in sorted(topics) if name not in VAL_TOPICS)
    return cut((paragraph for paragraph in train if paragraph not in val), TRAIN_CHARACTERS), cut(val, VAL_CHARACTERS)


def cut(part: Iterable[str], characters: int) -> str:
    """The first characters of paragraphs, and the one after them, which is the last to be predicted."""
    text = "\n".join(part)
    if len(text) <= characters:
        raise UserError(f"data.name: topics of this Python are too short (got {len(text)}); wanted: {characters + 1}")
    return text[: characters + 1]


def paragraphs(texts: Iterable[str]) -> dict[str, None]:
    """The paragraphs of texts in order, each once, with single blanks between the words."""
    joined = (" ".join(paragraph.split()) for text in texts for paragraph in text.split("\n\n"))
    return dict.fromkeys(filter(None, joined))


def tokens_of(text: str) -> list[int]:
    """The characters as numbers from 0 to 96: the line's end 0, the blank 1, `a` 66, what is not ASCII 96."""
    numbers = {character: number for number, character in enumerate(CHARACTERS)}
    return [numbers.get(character, OTHER) for character in text]


def digest() -> str:
    """SHA-256 of both texts, the first 12 digits: which text a trial saw."""
    return hashlib.sha256("\n\n".join(topic_texts()).encode()).hexdigest()[:12]
