"""What a monitor asks of a live model beside its weights: parameters, what trains, and where it is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from spectra.sources import Checkpoint, memory
from spectra.sources.keras_models import KerasModel

if TYPE_CHECKING:
    from torch import nn


class Live(Protocol):
    """A model of some framework, as a monitor sees it."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the framework keeps each tensor in, by its name; none for those that are computed."""
        ...

    @property
    def has_gradients(self) -> bool:
        """Whether parameters hold their gradients after a step."""
        ...

    @property
    def on_cpu(self) -> bool:
        """Whether the model trains on the CPU."""
        ...

    def is_frozen(self, name: str) -> bool:
        """Tell whether a tensor is what it was, since nothing trains what it is made of."""
        ...


class _Torch:
    has_gradients = True

    def __init__(self, model: "nn.Module", source: Checkpoint) -> None:
        self._source = source
        found = dict(model.named_parameters(remove_duplicate=False))
        self.parameters: Mapping[str, Any] = memory.Parameters(model, found)

    @property
    def on_cpu(self) -> bool:
        return all(parameter.device.type == "cpu" for parameter in self.parameters.values())

    def is_frozen(self, name: str) -> bool:
        held = [self.parameters.get(part) for part in self._source.parts(name)]
        return not any(parameter is None or parameter.requires_grad for parameter in held)


class _Keras:
    has_gradients = False  # on no backend but torch's, and there they are cleared at any time

    def __init__(self, source: KerasModel) -> None:
        self._source = source
        self.parameters = source.variables

    @property
    def on_cpu(self) -> bool:
        return self._source.on_cpu

    def is_frozen(self, name: str) -> bool:
        return self._source.is_frozen(name)


def live(model: Any, source: Checkpoint) -> Live:  # noqa: ANN401 - of any framework
    """Return what is asked of a live model that was opened as `source`."""
    opened = source.source
    return _Keras(opened) if isinstance(opened, KerasModel) else _Torch(model, source)
