import dataclasses

import pytest

from applications.errors import UserError
from applications.settings import as_json, check_choices, check_ranges, with_settings


@dataclasses.dataclass(frozen=True)
class Config:
    count: int = 1
    rate: float | None = 0.5
    name: str | None = None
    on: bool = False
    widths: tuple[int, ...] = (1, 2)


def test_settings_are_of_their_fields_types():
    changed = with_settings(Config(), ["count=7", "rate=1e-2", "name=x=y z ", "on=True", "widths=3,4,5"])
    assert changed == Config(7, 0.01, "x=y z ", True, (3, 4, 5))
    assert with_settings(Config(), ["rate=none", "name=None"]) == Config(rate=None)
    assert with_settings(changed, []) == changed


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("count", "a setting is key=value, not 'count'"),
        ("counts=2", "unknown setting 'counts'; known: count, rate, name, on, widths"),
        ("count=1.5", "count takes a whole number, not '1.5'"),
        ("count=none", "count takes a whole number, not 'none'"),
        ("rate=fast", "rate takes a number or none, not 'fast'"),
        ("on=1", "on takes true or false, not '1'"),
        ("widths=1;2", "widths takes whole numbers divided by commas, not '1;2'"),
    ],
)
def test_other_settings_are_refused(setting, message):
    with pytest.raises(UserError) as error:
        with_settings(Config(), [setting])
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("words", "good", "bad"),
    [
        ("at least 1", (1, 2), (0,)),
        ("above 0", (0.1,), (0.0, float("nan"))),
        ("at least 0 and below 1", (0.0, 0.9), (-0.1, 1.0)),
        ("above 0 and at most 0.5", (0.1, 0.5), (0.0, 0.6)),
    ],
)
def test_ranges_hold_their_bounds_or_not_as_they_say(words, good, bad):
    for value in (*good, None):
        check_ranges(Config(rate=value), {words: ("rate",)})
    for value in bad:
        with pytest.raises(UserError, match=f"rate must be {words}, not {value}"):
            check_ranges(Config(rate=value), {words: ("rate",)})


def test_choices_list_the_known_ones():
    check_choices(Config(name="a"), {"name": ("a", "b")})
    with pytest.raises(UserError, match="unknown name 'c'; known: a, b"):
        check_choices(Config(name="c"), {"name": ("a", "b")})


def test_json_gives_back_what_it_was_given():
    assert as_json(Config()) == {"count": 1, "rate": 0.5, "name": None, "on": False, "widths": [1, 2]}
