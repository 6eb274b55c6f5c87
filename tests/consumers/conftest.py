"""A topic that a teacher has written to."""

from __future__ import annotations

import pytest
from support.teaching import teach

from tutelage import MemorySink, MemoryTopic


@pytest.fixture
def topic() -> MemoryTopic:
    """The numbers 0 to 19 in two partitions."""
    topic = MemoryTopic(name="t", partitions=2)
    teach(MemorySink(topic))
    return topic
