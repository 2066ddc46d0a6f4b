"""Which layer of a Keras model reads which, from its configuration."""

from __future__ import annotations

from collections.abc import Iterator

from hwlimits.training.keras import keras


def reads(model: keras.Model, function: str, error: type[Exception]) -> tuple[dict[str, list[str]], list[str]]:
    """{layer: the layers that it reads}, each after those, and the layers that are outputs.

    The layers of a Sequential model don't name its input; those of a functional one have it as a layer.
    Raises `error`, with the name of the `function` that was asked, for a layer that is used twice.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a"), keras.layers.ReLU(name="b")])
    >>> reads(model, "reads", ValueError)
    ({'a': [], 'b': ['a']}, ['b'])
    """
    names = [layer.name for layer in model.layers]
    if isinstance(model, keras.Sequential):
        before = [None, *names]
        return {name: [b] if b else [] for b, name in zip(before, names, strict=False)}, names[-1:]
    config = model.get_config()
    found = {}
    for entry in config["layers"]:
        if len(entry["inbound_nodes"]) > 1:
            raise error(f"{function}: {entry['name']} is used {len(entry['inbound_nodes'])} times in the model")
        found[entry["name"]] = list(_named(entry["inbound_nodes"], names))
    ordered: dict[str, list[str]] = {}

    def visit(name):
        if name not in ordered:
            for before in found[name]:
                visit(before)
            ordered[name] = found[name]

    for name in found:
        visit(name)
    return ordered, list(_named(config["output_layers"], names))


def _named(config, names: list[str]) -> Iterator[str]:
    """The layers that a part of Keras' configuration refers to, as [name, node, tensor] somewhere in it."""
    if isinstance(config, dict):
        config = list(config.values())
    if isinstance(config, list | tuple):
        if len(config) >= 3 and config[0] in names and all(isinstance(n, int) for n in config[1:3]):
            yield config[0]
            config = config[3:]
        for part in config:
            yield from _named(part, names)
