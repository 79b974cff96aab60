"""Each row of docs/porting.md's tables runs, on both sides."""

import re
import warnings
from math import inf
from pathlib import Path

import numpy as np
import ot
import pytest

import fgwot
from fgwot import pot

PAGE = (Path(__file__).parents[2] / "docs/porting.md").read_text()
FROM_POT, FROM_OTT = (
    re.findall(r"^\| (`.*`) \| (`.*`) \|$", part, re.MULTILINE) for part in PAGE.split("## A script of OTT's")
)
CALLS = [(old.strip("`"), new.strip("`")) for old, new in FROM_POT]


def problem(n, m):
    rng = np.random.default_rng(3)
    x, y = rng.random((n, 2)), rng.random((m, 2))
    return {"M": ot.dist(x, y), "Ca": ot.dist(x, x), "Cb": ot.dist(y, y)}


def plan(found):
    found = np.asarray(getattr(found, "plan", found))
    return found if found.ndim >= 2 else None


def test_the_tables_were_found():
    assert len(CALLS) == 14
    assert len(FROM_OTT) == 4


# Where both sides solve one problem, their plans agree.
SAME = ("solve_gromov(Ca, Cb, reg", "entropic_", "M, reg=0.1, alpha")


@pytest.mark.parametrize(("old", "new"), CALLS, ids=[old for old, _ in CALLS])
def test_a_row_for_users_of_pot(old, new):
    names = {"ot": ot, "fgwot": fgwot, "pot": pot, "inf": inf, "np": np} | problem(6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # POT's of its own
        theirs = eval(old, names)  # noqa: S307 - our own documentation
    ours = eval(new, names)  # noqa: S307
    assert np.isfinite(plan(ours) if plan(ours) is not None else ours).all()
    if any(words in old for words in SAME):
        if plan(ours) is None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        else:
            np.testing.assert_allclose(plan(ours), plan(theirs), atol=1e-5)


def test_the_rows_for_users_of_ott():
    """They turn around the map under which tests/benchmarks/test_conventions.py finds OTT's plans equal."""
    alpha, epsilon, tau = 0.3, 0.2, 0.9
    names = {"penalty": (1 - alpha) / (2 * alpha), "e": epsilon / (2 * alpha), "tau": tau}
    found = [eval(new.strip("`").partition("=")[2], names) for _, new in FROM_OTT[:3]]  # noqa: S307
    np.testing.assert_allclose(found, [alpha, epsilon, epsilon * tau / (1 - tau)])
