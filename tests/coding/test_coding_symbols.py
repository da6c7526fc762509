"""Claims about flags of the range coder: coded at once, read back one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hmcompress.coding.symbols import Adaptive, Decoder, Encoder, code_flags


@given(st.lists(st.booleans(), max_size=300))
def test_flags_coded_at_once_are_the_bytes_of_flags_coded_one_by_one_and_come_back(flags):
    at_once, one_by_one, adaptive, last = Encoder(), Encoder(), Adaptive(2, contexts=2), 1
    code_flags(at_once, len(flags), np.array(flags, bool))
    for flag in flags:
        last = adaptive.code(one_by_one, int(flag), last)
    assert at_once.getvalue() == one_by_one.getvalue()
    back = code_flags(Decoder(at_once.getvalue()), len(flags), None)
    assert np.array_equal(back, np.flatnonzero(flags))


@given(st.lists(st.integers(0, 12), max_size=300), st.sampled_from([0.0, 0.3, 0.4]))
def test_numbers_coded_at_once_are_the_bytes_of_numbers_coded_one_by_one_and_come_back(numbers, spread):
    at_once, one_by_one = Encoder(), Encoder()
    size = max(numbers, default=0) + 1
    Adaptive(size, 0.3, spread).code_all(at_once, np.array(numbers, np.int64), len(numbers))
    adaptive = Adaptive(size, 0.3, spread)
    for number in numbers:
        adaptive.code(one_by_one, number)
    assert at_once.getvalue() == one_by_one.getvalue()
    back = Adaptive(size, 0.3, spread).code_all(Decoder(at_once.getvalue()), None, len(numbers))
    assert back.tolist() == numbers
