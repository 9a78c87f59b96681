"""Fixtures of tests of data."""

from collections.abc import Iterator

import pytest


@pytest.fixture
def forked_joblib() -> Iterator[None]:
    """Processes of joblib are forked, which spares them the imports."""
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.backend.context import set_start_method

    get_reusable_executor().shutdown()
    set_start_method("fork", force=True)
    yield
    get_reusable_executor().shutdown()
    set_start_method(None, force=True)
