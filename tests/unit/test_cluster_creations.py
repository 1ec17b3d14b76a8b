"""Making a cluster: when a node counts as Ready."""

from types import SimpleNamespace

import pytest

from tools.cluster import creations


def asked(answers: list[tuple[float, bool]], monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What a steady probe says at each of the times, given what the probe below it says."""
    clock, answer = 0.0, False
    monkeypatch.setattr(creations, "time", SimpleNamespace(monotonic=lambda: 1000 + clock))
    steady = creations._Steady(lambda: answer)
    said = []
    for clock, answer in answers:  # noqa: B007 - both are read by the lambdas
        said.append(steady())
    return said


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        pytest.param([(9, True)], [False], id="not at once, however late it is asked"),
        pytest.param([(0, True), (1.4, True), (1.5, True), (9, True)], [False, False, True, True], id="after a while"),
        pytest.param([(0, False), (9, False), (18, True)], [False, False, False], id="counted from when it began"),
        pytest.param(
            [(0, True), (1, False), (1.6, True), (3.0, True), (3.1, True)],
            [False, False, False, False, True],
            id="a lapse begins it anew",
        ),
        pytest.param([(0, True), (2, True), (3, False)], [False, True, False], id="a lapse afterwards"),
    ],
)
def test_a_node_counts_as_ready_when_it_has_been_so_for_a_moment(
    answers: list[tuple[float, bool]], said: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(answers, monkeypatch) == said
