"""Ids and types of envs find their adapter, or an error that helps."""

import pytest
from toys.reach import ENVS, Reach

from diffsurrogate.envs import registry
from diffsurrogate.envs.registry import as_multi_agent, make, register_adapter, register_env
from diffsurrogate.errors import UsageError


class Foreign:
    """An env of another library."""


class Descendant(Foreign):
    pass


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    monkeypatch.setattr(registry, "_ADAPTERS", dict(registry._ADAPTERS))
    monkeypatch.setattr(registry, "_IDS", dict(registry._IDS))


@pytest.mark.parametrize(
    ("env_id", "advice"),
    [
        ("vmass/dispersion", "did you mean 'vmas'"),
        ("papr/dispersion", "did you mean 'paper'"),
        ("nothing-like-it/x", r"namespaces .*diffsurrogate, .*paper, .*vmas"),
        ("mine/x", "a script that calls register_env"),
        ("vmas", "namespace/name"),
        ("vmas/", "namespace/name"),
        ("", "namespace/name"),
    ],
)
def test_an_unknown_id_is_refused_with_advice(env_id, advice):
    with pytest.raises(UsageError, match=advice):
        make(env_id, num_envs=ENVS)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cuda:x"])
def test_a_device_that_cannot_be_reached_is_refused(device):
    with pytest.raises(UsageError, match="device"):
        make("diffsurrogate/cartpole-swingup", num_envs=ENVS, device=device)


def test_make_passes_the_rest_of_the_id_and_the_options_on():
    calls = []

    def factory(name: str, **options: object) -> Reach:
        calls.append((name, options))
        return Reach()

    register_env("mine", factory)
    assert isinstance(make("mine/deep/name", num_envs=3, colour="red"), Reach)
    assert calls == [("deep/name", {"num_envs": 3, "colour": "red"})]
    with pytest.raises(UsageError, match="mine"):
        make("min/x")


def test_a_name_that_its_namespace_does_not_list_is_refused():
    register_env("mine", lambda name, **options: Reach(), ids=lambda: ["reach", "far"])
    assert isinstance(make("mine/reach"), Reach)
    with pytest.raises(UsageError, match=r"mine/raech; .* are reach, far; did you mean 'reach'"):
        make("mine/raech")


@pytest.mark.parametrize("namespace", ["", "a/b"])
def test_a_namespace_without_a_plain_name_is_refused(namespace):
    with pytest.raises(UsageError, match="without a slash"):
        register_env(namespace, lambda name: Reach())


def test_a_registered_type_and_its_subclasses_are_adapted():
    seen = []

    def adapt(env: Foreign, *, num_envs: int = ENVS) -> Reach:
        seen.append(type(env))
        return Reach(num_envs=num_envs)

    register_adapter(Foreign, adapt)
    assert as_multi_agent(Foreign()).num_envs == ENVS
    assert as_multi_agent(Descendant(), num_envs=11).num_envs == 11
    assert seen == [Foreign, Descendant]


def test_the_nearest_type_wins():
    register_adapter(Foreign, lambda env: Reach(num_envs=2))
    register_adapter(Descendant, lambda env: Reach(num_envs=11))
    assert as_multi_agent(Descendant()).num_envs == 11


def test_an_unknown_type_is_refused_with_what_is_known_and_how_to_add():
    with pytest.raises(UsageError, match=r"Foreign.*vmas.*register_adapter"):
        as_multi_agent(Foreign())


def test_every_namespace_we_name_can_be_loaded():
    for target in (*registry._FACTORIES.values(), *registry._IDS.values()):
        assert callable(registry._load(target))
