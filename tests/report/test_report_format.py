"""Claims about numbers and names as people read them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hmcompress.report.format import (
    abbreviate,
    fold,
    format_bytes,
    format_error,
    format_ratio,
    format_seconds,
    format_shape,
    format_tolerance,
    printable,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345, "12.3 kB"), (999_499, "999 kB"), (999_500, "1.00 MB"),
     (5_717_705, "5.72 MB"), (104_174_334, "104 MB"), (2_500_000_000, "2.50 GB"), (-1500, "-1.50 kB")],
)  # fmt: skip
def test_bytes_have_three_digits(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("ratio", "text"), [(1, "1.00x"), (3.149, "3.14x"), (3.999, "3.99x"), (46.17, "46.1x"), (320.9, "320x")]
)  # fmt: skip
def test_ratios_are_never_rounded_up(ratio, text):
    assert format_ratio(ratio) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [(0.0, "0"), (9.981e-4, "9.99e-4"), (9.99e-4, "9.99e-4"), (9.9901e-4, "1.00e-3"), (1e-3, "1.00e-3"),
     (0.25, "0.250"), (0.9991, "1.00"), (3.676, "3.68"), (2500.0, "2.50e3"), (float("nan"), "nan"), (None, "-")],
)  # fmt: skip
def test_errors_are_rounded_up(error, text):
    assert format_error(error) == text


@given(st.floats(0, 1e300, exclude_min=True) | st.floats(1e-12, 10))
@example(5e-324)
@example(3e-321)
def test_a_printed_error_is_never_below_the_error(error):
    assert float(format_error(error)) >= error * (1 - 1e-9)
    assert float(format_error(error)) <= max(error * 1.0101, error + 1e-323)


@given(st.floats(0.01, 1e6, allow_nan=False))
def test_a_printed_ratio_is_never_above_the_ratio(ratio):
    assert float(format_ratio(ratio)[:-1]) <= ratio * (1 + 1e-6)


@pytest.mark.parametrize(
    ("tol", "text"), [(1e-3, "1e-3"), (2.5e-4, "2.5e-4"), (0.1, "0.1"), (0.25, "0.25"), (1e-2, "1e-2"), (None, "-")]
)
def test_tolerances_are_short(tol, text):
    assert format_tolerance(tol) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3725, "1 h 02 min")]
)
def test_seconds_read_as_time(seconds, text):
    assert format_seconds(seconds) == text


def test_shapes():
    assert format_shape((512, 25)) == "512x25" and format_shape(()) == "scalar"


@given(st.text(max_size=200), st.integers(1, 80))
def test_abbreviated_text_fits(text, width):
    assert len(abbreviate(text, width)) <= max(width, 0)


def test_abbreviation_keeps_both_ends():
    assert abbreviate("encoder.layers.11.attention.query.weight", 21) == "encoder.l...ry.weight"


@given(st.text(max_size=50))
def test_printable_text_cannot_steer_a_terminal(text):
    assert printable(text).isprintable() or not {c for c in printable(text) if ord(c) < 32 or 127 <= ord(c) < 160}


@given(st.text(max_size=200), st.integers(5, 80), st.integers(1, 4))
def test_folded_names_fit_and_lose_nothing_where_there_is_room(text, width, lines):
    folded = fold(text, width, lines)
    assert len(folded) <= lines and all(len(line) <= width for line in folded)
    if len(text) <= width * lines:
        assert "".join(folded) == text


def test_long_steps_of_a_name_are_not_cut_where_two_lines_hold_them():
    names = [f"0._modules.functional_9_1/conv1d_{k}_1/convolution.1.weight" for k in range(9)]
    assert ["".join(fold(name, 43)) for name in names] == names


def test_names_are_folded_after_a_dot():
    assert fold("bert.encoder.layer.*.attention.query.weight", 30) == [
        "bert.encoder.layer.*.",
        "attention.query.weight",
    ]
