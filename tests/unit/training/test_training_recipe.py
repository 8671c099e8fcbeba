"""`--set` on recipes: typed, and every unknown key is an error."""

import pytest

from headrace.errors import ConfigError
from headrace.training.recipe import fingerprint, settings, with_sets
from headrace.training.recipes import sprout_plan


def test_values_are_set_and_typed() -> None:
    changed = with_sets(
        sprout_plan.default(),
        ["pretrain.updates.steps=7", "chat.updates.matrix_lr=3e-4", "seed=5", "name=x"],
    )
    assert changed.pretrain.updates.steps == 7
    assert changed.chat.updates.matrix_lr == 3e-4
    assert (changed.seed, changed.name) == (5, "x")
    assert settings(changed)["pretrain.updates.steps"] == 7
    assert fingerprint(changed) != fingerprint(sprout_plan.default())
    assert fingerprint(changed, "a") != fingerprint(changed, "b")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("pretrain.updates.step=7", "did you mean pretrain.updates.steps"),
        ("zzz=1", "unknown recipe key 'zzz'; known:"),
        ("pretrain.updates.steps=many", "is not a int"),
        ("pretrain.updates.steps=-1", "out of range"),
        ("chat.updates.matrix_lr=nan", "out of range"),
        ("pretrain.updates.steps", "has no '='"),
        ("pretrain.updates=1", "unknown recipe key"),
        ("chat.updates.optimizer=sgd", "none of adamw, muon"),
    ],
)
def test_what_cannot_be_set_is_refused(item: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_sets(sprout_plan.default(), [item])
