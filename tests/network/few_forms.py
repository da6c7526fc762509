"""Little work for joint stages: their claims hold for any amount, and little is enough for networks this small."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import hmcompress.network.joint.form_search as form_search
import hmcompress.network.joint.smallest as joint_module
import hmcompress.network.layerwise.budget as budget


@contextmanager
def few_forms() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint_module, "_WORK", {"default": 3e9, "max": 3e9})
        patch.setattr(joint_module, "_SEEDS", 1)
        patch.setattr(form_search, "_LEAST", 2)
        patch.setattr(budget, "_MOST", {"fast": 8, "default": 8})
        yield
