"""Texts in a memory of pages or of reservations: by hand, by an allocator's replay, invariants, what can't be."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits import pools
from hwlimits.paging import PagingError, Text, run

some_texts = st.lists(st.builds(Text, st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=14)


def test_reservations_by_hand():
    """Room for two of ten tokens. Three texts of 2 + 3, 2 + 1, 1 + 2: the third begins when the second is done."""
    found = run([Text(2, 3), Text(2, 1), Text(1, 2)], capacity=25, reserve=10)
    assert [(s.texts, s.cached, s.prefilled) for s in found.steps] == [(2, 6, 4), (2, 6, 1), (2, 8, 0)]
    assert found.sent_back == 0
    assert found.mean_texts == 2
    assert found.used == pytest.approx((6 + 6 + 8) / 3 / 25)


def test_pages_by_hand():
    """Three pages of two. Both begin; when the first needs a second page there is none, and the second leaves."""
    found = run([Text(1, 4), Text(3, 1)], capacity=6, page=2)
    # text 0 takes 1 page, text 1 two: full. Step 1: 2 and 4 tokens; text 1 is done and gives two pages back.
    assert [(s.texts, s.cached) for s in found.steps] == [(2, 6), (1, 3), (1, 4), (1, 5)]
    found = run([Text(1, 4), Text(3, 3)], capacity=6, page=2)
    # step 2: text 0 needs a page, so text 1, the last to begin, leaves with 4 tokens, and comes back when 0 is done
    assert [(s.texts, s.cached, s.prefilled) for s in found.steps] == [
        (2, 6, 4), (1, 3, 0), (1, 4, 0), (1, 5, 0), (1, 5, 4), (1, 6, 0),
    ]  # fmt: skip
    assert found.sent_back == 1


def test_who_was_sent_back_comes_before_those_who_never_began():
    """As above, with a third text that one free page would do for."""
    found = run([Text(1, 4), Text(3, 3), Text(1, 1)], capacity=6, page=2)
    assert [(s.texts, s.cached, s.prefilled) for s in found.steps] == [
        (2, 6, 4), (1, 3, 0), (1, 4, 0), (1, 5, 0), (1, 5, 4), (1, 6, 0), (1, 2, 1),
    ]  # fmt: skip


def test_a_text_begins_with_room_for_its_next_token():
    found = run([Text(2, 1), Text(2, 1)], capacity=4, page=2)
    assert [(s.texts, s.cached) for s in found.steps] == [(1, 3), (1, 3)]
    assert found.sent_back == 0, "the second would have left again at once"


@settings(max_examples=150, deadline=None)
@given(some_texts, st.integers(21, 90), st.integers(1, 8))
def test_every_token_is_written_and_none_has_no_room(texts, capacity, page):
    reserve = max(t.prompt + t.generated for t in texts)
    options = [{"reserve": reserve}]
    if capacity // page * page >= reserve:
        options.append({"page": page})
    for option in options:
        found = run(texts, capacity, **option)
        assert sum(s.texts for s in found.steps) == sum(t.generated for t in texts)
        assert all(0 < s.cached <= capacity and s.texts for s in found.steps)
        if "reserve" in option:
            assert found.most_texts <= capacity // reserve
            assert sum(s.prefilled for s in found.steps) == sum(t.prompt for t in texts)
        if not found.sent_back:
            assert sum(s.prefilled for s in found.steps) == sum(t.prompt for t in texts)


def test_a_whole_page_for_each_token_to_come_is_a_reservation():
    texts = [Text(int(p), int(g)) for p, g in np.random.default_rng(0).integers(1, 10, (40, 2))]
    assert run(texts, 100, page=20) == run(texts, 100, reserve=20)


def test_enough_room_for_all_is_no_wait():
    texts = [Text(2, 5), Text(3, 2)]
    found = run(texts, 1000, page=4)
    assert len(found.steps) == 5
    assert [s.texts for s in found.steps] == [2, 2, 1, 1, 1]


def test_pages_are_what_a_pool_of_one_class_hands_out():
    """The same pages asked of the course's allocator, step by step: it never fails, and is never fuller."""
    page, capacity, random = 4, 96, np.random.default_rng(3)
    texts = [Text(int(p), int(g)) for p, g in random.integers(1, 20, (12, 2))]
    found = run(texts, capacity=10**4, page=page)  # all begin at once: the trace needs no queue
    trace, held = [], dict.fromkeys(range(len(texts)), 0)
    for step in range(len(found.steps)):
        for i, text in enumerate(texts):
            while step < text.generated and held[i] * page < text.prompt + step + 1:
                trace.append(pools.Request(f"{i}.{held[i]}", page))
                held[i] += 1
        for i, text in enumerate(texts):
            if step == text.generated - 1:
                trace += [pools.Request(f"{i}.{j}") for j in range(held[i])]
    most = pools.replay(trace, pools.SizeClasses(10**4, classes=[page])).high_water_bytes
    fits = run(texts, capacity=most, page=page)
    assert fits == type(fits)(found.steps, most, 0), "in so many tokens nothing waits or leaves"
    assert run(texts, capacity=most - page, page=page) != type(fits)(found.steps, most - page, 0)
    assert capacity < most


@pytest.mark.parametrize(
    ("options", "texts", "message"),
    [
        ({}, [Text(1, 1)], "run(page=None, reserve=None): give one of the two"),
        ({"page": 2, "reserve": 4}, [Text(1, 1)], "run(page=2, reserve=4): give one of the two"),
        ({"page": 0}, [Text(1, 1)], "run(page=0): must be a whole number of tokens, at least 1"),
        ({"reserve": 2.0}, [Text(1, 1)], "run(reserve=2.0): must be a whole number of tokens"),
        ({"page": 3}, [Text(1, 1), Text(0, 1)], "text 1: prompt is 0; it must be a whole number of tokens"),
        ({"page": 3}, [Text(1, True)], "text 0: generated is True"),
        ({"page": 3}, [Text(5, 5)], "text 0 becomes 10 tokens long, and a single text has room for 9"),
        ({"reserve": 8}, [Text(5, 4)], "text 0 becomes 9 tokens long, and a single text has room for 8"),
        ({"reserve": 11}, [Text(1, 1)], "a single text has room for 0"),
        ({"page": 3}, [], "run: give at least one text"),
    ],
)
def test_what_can_not_be(options, texts, message):
    with pytest.raises(PagingError, match=re.escape(message)):
        run(texts, 10, **options)
