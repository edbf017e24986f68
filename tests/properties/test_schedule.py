"""The budget of a monitor holds whatever layers cost and however steps take."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from spectra.training.schedule import Schedule

seconds = st.floats(1e-4, 2.0)


@given(
    truth=st.lists(seconds, min_size=1, max_size=12),
    guess=st.floats(0.01, 100.0),
    budget=st.floats(0.005, 0.5),
    every=st.integers(1, 30),
    step_seconds=seconds,
)
def test_what_is_spent_stays_within_the_budget_but_for_what_was_misjudged(
    truth, guess, budget, every, step_seconds
):
    predicted = [guess * cost for cost in truth]  # ratios right, the machine wrong
    schedule = Schedule(predicted, every, budget)
    elapsed, order, begun = 0.0, [], []
    for step in range(1, 400):
        elapsed += step_seconds
        due = schedule.due(step, elapsed)
        if len(due) and due.start == 0:
            begun.append(step)
        spent = sum(truth[i] for i in due)
        for i in due:
            schedule.cost(i, truth[i])
        schedule.done(due, spent)
        elapsed += spent
        order += due
        # The first layer's cost is a guess; all others follow from it.
        misjudged = truth[0] if guess < 1 else 0.0
        assert schedule.spent <= budget * elapsed + misjudged + 1e-9
    assert order == [i % len(truth) for i in range(len(order))], "round-robin, none left out"
    for earlier, later in itertools.pairwise(begun):
        assert later // every > earlier // every, "no two rounds between multiples of `every`"


@given(
    costs=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8),
    owners=st.lists(st.integers(0, 3), min_size=8, max_size=8),
)
def test_the_cost_of_layers_read_together_is_that_of_the_busiest_process(costs, owners):
    owners = owners[: len(costs)]
    schedule = Schedule(costs, 1, 0.1, owners)
    schedule.cost(0, costs[0])
    loads = [sum(c for c, o in zip(costs, owners, strict=True) if o == rank) for rank in range(4)]
    assert schedule.due(1, elapsed=10 * max(loads) + 1e-6) == range(len(costs))
    schedule = Schedule(costs, 1, 0.1, owners)
    schedule.cost(0, costs[0])
    assert schedule.due(1, elapsed=10 * max(loads) * 0.99).stop < len(costs)


def test_what_is_in_hand_is_as_good_as_spent():
    schedule = Schedule([1.0, 1.0, 1.0], 1, 0.1)
    assert schedule.due(1, 100.0) == range(1)
    schedule.done(range(1), 0.0)
    assert not schedule.due(2, 100.0, in_hand=[0]), "what layers cost is not known yet"
    schedule.cost(0, 2.0)
    schedule.spent += 2.0
    assert schedule.due(3, 59.0) == range(1, 2), "3.9 s left: one of two seconds"
    assert not schedule.due(3, 59.0, in_hand=[1])
    assert schedule.due(3, 61.0, in_hand=[1]) == range(1, 2)


@given(
    costs=st.lists(seconds, min_size=1, max_size=6),
    budget=st.floats(0.005, 0.5),
    step_seconds=seconds,
)
def test_the_quick_look_says_what_the_whole_account_says(costs, budget, step_seconds):
    schedule = Schedule(costs, 3, budget)
    elapsed = 0.0
    for step in range(1, 200):
        elapsed += step_seconds
        waits = schedule.waits(step, elapsed)
        due = schedule.due(step, elapsed)
        assert not (waits and len(due))
        spent = sum(costs[i] for i in due)
        for i in due:
            schedule.cost(i, costs[i])
        schedule.done(due, spent)
        elapsed += spent
