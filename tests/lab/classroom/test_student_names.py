"""Names of students: what of a name is shown, and which user id comes of it?"""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsdemo.lab.classroom.seats import NotAdmitted, Seats
from wsdemo.lab.classroom.student_names import NAME_CHARS, display_name, user_id_for
from wsdemo.user_ids import valid_user_id


@pytest.mark.parametrize(
    ("written", "shown", "user"),
    [
        ("Zoë", "Zoë", "zoe"),
        ("<b>bold</b>", "<b>bold</b>", "b-bold-b"),
        ("a\u202egnp\u0000\n", "a gnp", "a-gnp"),
        ("gateway-01", "gateway-01", "s-gateway-01"),
        ("__probe__", "__probe__", "probe"),
        ("redis", "redis", "s-redis"),
        ("Nobody of this name", "Nobody of this name", "s-nobody-of-this-nam"),
        ("x" * 300, "x" * 20, "x" * 20),
        ("  ", "", ""),
        ("\u200b\u200d", "", ""),
        ("!!!", "", ""),
    ],
)
def test_a_name_is_shown_as_one_plain_line(written: str, shown: str, user: str) -> None:
    """Markup stays text; control, direction and zero-width characters go."""
    assert display_name(written) == shown
    if shown:
        assert user_id_for(shown) == user


@given(st.text(max_size=300))
def test_every_name_is_refused_or_makes_a_user_that_a_gateway_accepts(written: str) -> None:
    """Whatever was typed."""
    shown = display_name(written)
    assert len(shown) <= NAME_CHARS
    assert not any(unicodedata.category(character)[0] == "C" for character in shown)
    if shown:
        assert valid_user_id(user_id_for(shown))


def test_two_of_a_name_get_two_ids() -> None:
    """Also beside a simulated user of this name, and never one of them twice."""
    seats = Seats(lambda user: user == "ann")
    users = [seats.join(seats.code, "Ann", "a").user for _ in range(60)]
    assert users[:2] == ["ann-2", "ann-3"]
    assert len(set(users)) == 60


def test_a_room_full_of_one_name_says_so() -> None:
    """Instead of a search without end."""
    seats = Seats(lambda user: True)
    with pytest.raises(NotAdmitted, match="choose another one"):
        seats.join(seats.code, "Ann", "a")
