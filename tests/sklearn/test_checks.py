# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Scikit-learn's own checks of estimators."""

from __future__ import annotations

import pytest
from sklearn.base import BaseEstimator
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_get_feature_names_out_error,
    check_global_output_transform_pandas,
    check_set_output_transform,
    check_set_output_transform_pandas,
    check_transformer_get_feature_names_out,
    check_transformer_get_feature_names_out_pandas,
    parametrize_with_checks,
)

from pyro_spvae.sklearn import SPVAEDensity, SPVAEImputer
from tests.sklearn.cases import QUICK

KINDS = (SPVAEDensity, SPVAEImputer)


def _quick(kind: type) -> BaseEstimator:
    return kind(**QUICK | {"epochs": 1, "samples": 2})


def _raced(kind: type) -> BaseEstimator:
    return kind(epochs=1, samples=2, random_state=0)


@parametrize_with_checks([make(kind) for make in (_quick, _raced) for kind in KINDS])
def test_estimator(estimator, check) -> None:
    check(estimator)


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_columns(kind) -> None:
    check_dataframe_column_names_consistency(kind.__name__, _quick(kind))


@pytest.mark.parametrize(
    "check",
    [
        check_get_feature_names_out_error,
        check_transformer_get_feature_names_out,
        check_transformer_get_feature_names_out_pandas,
        check_set_output_transform,
        check_set_output_transform_pandas,
        check_global_output_transform_pandas,
    ],
)
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")  # which the checks mix
def test_output_of_the_transformer(check) -> None:
    check("SPVAEImputer", _quick(SPVAEImputer))


@pytest.mark.parametrize("kind", KINDS)
def test_no_check_is_left_out(kind) -> None:
    """By tags; and NaN is said to be taken."""
    tags = get_tags(kind())
    assert tags.input_tags.allow_nan and tags.requires_fit
    assert not tags.non_deterministic and not tags.no_validation and not tags._skip_test
