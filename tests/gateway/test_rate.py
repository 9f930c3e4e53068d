"""Is the one number of a rate the same as a bucket of tokens?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from wsdemo.gateway.rate import Rate


class Bucket:
    """The textbook's: tokens that drip in, and one spent for each that passes."""

    def __init__(self, per_s: float, burst: int) -> None:
        self.per_s, self.burst = per_s, float(burst)
        self.tokens, self.at = float(burst), 0.0

    def take(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.per_s)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


# Powers of two, so that both ways of counting are exact and no rounding decides.
@examples(400)
@given(
    st.sampled_from([0.5, 1.0, 4.0, 1024.0]),
    st.integers(1, 12),
    st.lists(st.integers(0, 4096), max_size=60),
)
def test_the_rate_limit_agrees_with_a_token_bucket(
    per_s: float, burst: int, pauses: list[int]
) -> None:
    """Whatever the pauses between messages are."""
    rate, bucket = Rate.of(per_s, burst), Bucket(per_s, burst)
    now, paid_until = 1.0, 0.0
    for pause in pauses:
        now += pause / 1024
        taken = rate.take(paid_until, now)
        assert (taken is not None) == bucket.take(now)
        if taken is not None:
            paid_until = taken


@pytest.mark.parametrize("burst", [1, 20])
def test_at_most_a_whole_burst_passes_at_once(burst: int) -> None:
    """Also when the clock is at 0."""
    rate, paid_until, passed = Rate.of(8, burst), 0.0, 0
    while (taken := rate.take(paid_until, 0.0)) is not None:
        paid_until, passed = taken, passed + 1
    assert passed == burst


@pytest.mark.parametrize("burst", [1, 2, 40])
@pytest.mark.parametrize("per_s", [3.0, 20.0, 1_000.0])
def test_a_burst_is_exact_for_any_clock_value(per_s: float, burst: int) -> None:
    """A machine that has run for months has large clock values, whose sums are not exact."""
    rate = Rate.of(per_s, burst)
    for now in (0.1, 12_345.678, 98_765.432_1, 1e6 + 0.3, 1e7 + 0.7):
        paid_until, passed = 0.0, 0
        while (taken := rate.take(paid_until, now)) is not None:
            paid_until, passed = taken, passed + 1
        assert passed == burst, now


def test_only_a_pause_ends_the_excess() -> None:
    """During a flood single messages still pass; this does not end the excess."""
    rate, paid_until, now = Rate.of(8, 16), 0.0, 0.0
    for _ in range(200):
        now += 1 / 64
        paid_until = rate.take(paid_until, now) or paid_until
    assert not rate.has_calmed_down(paid_until, now)
    assert rate.has_calmed_down(paid_until, now + 1.25)
