"""The help topics of Python as tokens: a split that shares no paragraph, next tokens as labels, counts by hand."""

import pydoc_data.topics
import sys
from collections import Counter
from types import ModuleType

import pytest
import torch

from initlab.data import text
from initlab.data.dataset import Preprocessing
from initlab.data.facts import FACTS
from initlab.data.in_memory import prepare
from initlab.data.text import VAL_TOPICS, paragraphs, tokens_of, topic_texts, topics
from initlab.errors import UserError
from initlab.train.objective import objective_of


def test_a_token_is_a_character_and_what_is_not_ascii_is_one_more() -> None:
    assert tokens_of("\n !a~“é") == [0, 1, 2, 66, 95, 96, 96]


def test_paragraphs_are_taken_once_with_single_blanks() -> None:
    assert list(paragraphs(["a  b\n c\n\nd\n\n\n", "d\n\ne"])) == ["a b c", "d", "e"]


def test_no_paragraph_of_the_validation_text_is_in_the_training_text() -> None:
    train, val = topic_texts()
    assert (len(train), len(val)) == (2**18 + 1, 2**15 + 1)
    # the last one of each is cut
    parts = [set(part.split("\n")[:-1]) for part in (train, val)]
    assert not parts[0] & parts[1]
    # so each paragraph comes from topics of its part alone, but for those that training topics quote
    raw = {name: " ".join(topic.split()) for name, topic in pydoc_data.topics.topics.items()}
    of_val = " ".join(raw[name] for name in VAL_TOPICS)
    assert all(paragraph in of_val for paragraph in parts[1])
    # and hardly a stretch of 64 characters of the one is in the other
    windows = {train[i : i + 64] for i in range(len(train) - 63)}
    assert sum(val[i : i + 64] in windows for i in range(len(val) - 63)) < 0.001 * len(val)


def test_labels_are_the_next_tokens() -> None:
    examples, (train, _) = topics(64), topic_texts()
    facts = FACTS["topics"]
    assert examples.train_inputs.shape == examples.train_labels.shape == (facts.train, facts.size) == (4096, 64)
    assert examples.val_inputs.shape == (facts.val, facts.size) == (512, 64)
    assert examples.train_inputs[3].tolist() == tokens_of(train[192:256])
    assert examples.train_labels[3].tolist() == tokens_of(train[193:257])
    assert examples.outputs == facts.num_classes == 97
    # 2**18 is 26214 sequences of 10, and 4 characters
    assert topics(10).train_inputs.shape == (26214, 10)


def test_chance_is_that_of_the_commonest_character() -> None:
    data = prepare(topics(64), Preprocessing())
    counts = Counter(topic_texts()[0][1:])
    character, count = counts.most_common(1)[0]
    assert character == " "
    assert objective_of(None, data).guess.error == pytest.approx(1 - count / 2**18, rel=1e-12)
    assert data.probe_batch(2)[0].dtype == torch.int64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"data.name: topics needs the help topics of Python \(got no debugger\)"),
        (dict.fromkeys([*VAL_TOPICS, "if"], "short"), r"topics of this Python are too short \(got 0\); wanted: 262145"),
    ],
)
def test_a_python_with_other_topics_is_told(content, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pydoc_data.topics")
    module.topics = content
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", module)
    text.topic_texts.cache_clear()
    with pytest.raises(UserError, match=message):
        topic_texts()
    text.topic_texts.cache_clear()
