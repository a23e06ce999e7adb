# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the tests of data share."""

from __future__ import annotations

import contextlib
import re

import pytest
import torch


@contextlib.contextmanager
def refused(message, *parts):
    """A refusal in one sentence that matches a pattern and has the parts in it."""
    with pytest.raises(ValueError, match=message) as caught:
        yield
    assert "\n" not in str(caught.value) and all(re.search(re.escape(str(part)), str(caught.value)) for part in parts)


@contextlib.contextmanager
def perhaps_refused(*parts):
    """Nothing, or a refusal in one sentence that has one of the parts in it."""
    try:
        yield
    except ValueError as error:
        assert "\n" not in str(error) and any(part in str(error) for part in parts)


def together(data):
    """The rows of all splits."""
    return torch.cat([data.train[:], data.validation[:], data.test[:]])


def lengths(data):
    return [len(data.train), len(data.validation), len(data.test)]


def damaged(whole, place, noise, cut):
    """Content with other bytes at a place, and perhaps nothing after them."""
    place %= len(whole)
    return whole[:place] + noise + (b"" if cut else whole[place + len(noise) :])
