"""Controllers: learning rates and weight decay layer by layer, beside any scheduler.

What is scheduled and what is applied are kept apart: before the scheduler steps it finds the rates
it left, afterwards each layer's rate is its multiplier times what was scheduled.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from spectra.analysis import NOT_AVERAGED, analyze
from spectra.errors import SelectionError, unknown_name
from spectra.metrics import METRICS
from spectra.training.layer_groups import Layer, layers_of, places_of, tensor_of
from spectra.training.rules import ALPHADECAY, TEMPBALANCE, LayerRule, is_exponent, multipliers
from spectra.training.scaling import ScaledValues

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)


class _Layerwise:
    """What both controllers are: multipliers by layer, kept apart from what is scheduled."""

    key: ClassVar[str]

    def __init__(
        self,
        model: "nn.Module",
        optimizer: Any,  # noqa: ANN401 - torch's, or a wrapper with its param_groups
        scheduler: Any = None,  # noqa: ANN401 - any object with step()
        *,
        rule: LayerRule,
        layers: str | Sequence[str] = (),
        exclude: str | Sequence[str] = (),
        saves_scheduler: bool = False,
    ) -> None:
        if not isinstance(rule, LayerRule):
            raise SelectionError(
                "E_OPTION", "rule", f"is {rule!r}", "give a LayerRule, such as TEMPBALANCE"
            )
        self.rule = rule
        self._model = model
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._saves_scheduler = saves_scheduler and scheduler is not None
        chosen = {layer.name for layer in layers_of(model, layers=layers, exclude=exclude)}
        every = layers_of(model)
        self._parameters: dict[str, list[nn.Parameter]] = {layer.name: [] for layer in every}
        names = {layer.tensor: layer.name for layer in every}
        for name, parameter in model.named_parameters():
            if tensor_of(name) in names:
                self._parameters[names[tensor_of(name)]].append(parameter)
        self._check_optimizer()
        self._groups = places_of(optimizer, self._parameters, chosen)
        self._layers = tuple(layer for layer in every if layer.name in self._groups)
        self._known = {name: layer.name for layer in every for name in (layer.name, *layer.parts)}
        self._told = False
        self._steps = 0
        self._since = 0
        self._alphas: dict[str, float] = {}
        self._start = dict.fromkeys(self._groups, 1.0)
        self._target = dict(self._start)
        self._values = ScaledValues(optimizer, self.key, self._groups)

    @property
    def alphas(self) -> dict[str, float]:
        """The alphas last measured or given, of the layers that have one."""
        return dict(self._alphas)

    @property
    def multipliers(self) -> dict[str, float]:
        """What the rates of the layers under control are multiplied by now."""
        if self._since >= self.rule.ramp:
            return dict(self._target)
        part = self._since / self.rule.ramp
        return {
            name: start + (self._target[name] - start) * part for name, start in self._start.items()
        }

    def measure(self) -> dict[str, float]:
        """Measure the alphas of the layers under control, by the rule's estimator; NaN: none.

        Of a layer that is several matrices (q, k and v in one) it is the mean of those that have one.
        """
        measured = [layer for layer in self._layers if self._is_measured(layer)]
        if not measured:
            return {}
        wanted = {part for layer in measured for part in layer.parts}
        others = [part for layer in layers_of(self._model) for part in layer.parts]
        report = analyze(
            self._model,
            estimator=self.rule.estimator,
            exclude=[part for part in others if part not in wanted],
            replicates=0,
            metrics={"alpha": METRICS["alpha"]},
        )
        return self._of_layers({row.name: row["alpha"] for row in report.layers})

    def update(self, alphas: Mapping[str, float] | None = None) -> dict[str, float]:
        """Measure alphas, or take those given, and set the multipliers by the rule.

        Parameters
        ----------
        alphas : Mapping[str, float], optional
            By the names of layers or of their parts, as reports have them, by one estimator. Layers not
            named keep the alpha they had; layers of the model that are not under control are ignored.

        Returns
        -------
        dict of str to float
            The new multipliers; with a ramp they are reached over the coming calls of ``step``.

        Raises
        ------
        SelectionError
            If a name is that of no layer of the model.
        """
        found = self.measure() if alphas is None else self._alphas | self._of_layers(alphas)
        told = [layer.name for layer in self._layers if self._is_measured(layer)]
        self._alphas = {
            name: found[name] for name in told if is_exponent(found.get(name, math.nan))
        }
        if len(self._alphas) < 2 <= len(self._layers) and not self._told:
            self._told = True
            logger.warning(
                "%s: %d of %d layers have an exponent (the rule asks for %d eigenvalues at least):"
                " with fewer than two, no layer differs from another",
                type(self).__name__,
                len(self._alphas),
                len(self._layers),
                self.rule.min_eigenvalues,
            )
        shares = multipliers(self._alphas, self.rule)
        self._start = self.multipliers
        self._target = dict.fromkeys(self._groups, 1.0) | shares
        if self.rule.embeddings == "largest":
            largest = max(shares.values(), default=1.0)
            embeddings = (x.name for x in self._layers if x.kind == "embedding")
            self._target |= dict.fromkeys(embeddings, largest)
        self._since = 0
        self._values.take_out()
        self._values.note()
        self._values.apply(self.multipliers)
        return dict(self._target)

    def _step(self, arguments: Sequence[Any] = (), rate: float | None = None) -> None:
        self._values.take_out()
        self._steps += 1
        self._since += 1
        try:
            if self._scheduler is not None:
                self._scheduler.step(*arguments)
            if rate is not None:
                self._values.set_all(rate)
        finally:  # whatever a scheduler raises, no layer is left without its multiplier
            self._values.note()
            self._values.apply(self.multipliers)
        if self.rule.every and self._steps % self.rule.every == 0:
            self.update()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to go on with the same rates: plain numbers by layer.

        And the scheduler's own state, which may hold tensors, if this controller is to save it.
        """
        theirs = {"scheduler": self._scheduler.state_dict()} if self._saves_scheduler else {}
        return theirs | {
            "steps": self._steps,
            "since": self._since,
            "alphas": dict(self._alphas),
            "start": dict(self._start),
            "target": dict(self._target),
            "scheduled": self._values.plain(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; before or after the optimizer and the scheduler load theirs.

        Raises
        ------
        SelectionError
            If it is not the state of a controller of the same layers.
        """
        tables = ("start", "target", "scheduled")
        expected = {"steps", "since", "alphas", *tables}
        if self._saves_scheduler:
            expected.add("scheduler")
        if set(state) != expected or any(set(state[t]) != set(self._groups) for t in tables):
            reason = f"it is no state of a controller of these {len(self._groups)} layers"
            raise SelectionError("E_STATE", "state", reason, "load what state_dict() returned")
        if self._saves_scheduler:
            self._scheduler.load_state_dict(state["scheduler"])
        self._steps, self._since = int(state["steps"]), int(state["since"])
        self._alphas, self._start = dict(state["alphas"]), dict(state["start"])
        self._target = dict(state["target"])
        self._values.load(state["scheduled"])
        self._values.apply(self.multipliers)

    def _is_measured(self, layer: Layer) -> bool:
        return (
            layer.kind not in NOT_AVERAGED
            and layer.n_eigenvalues >= self.rule.min_eigenvalues
            and any(parameter.requires_grad for parameter in self._parameters[layer.name])
        )

    def _of_layers(self, alphas: Mapping[str, float]) -> dict[str, float]:
        """Turn alphas of layers and parts into those of the layers under control."""
        values: dict[str, list[float]] = {}
        for name, alpha in alphas.items():
            layer = self._known.get(name) or self._known.get(f"{name}.weight")
            if layer is None:
                raise unknown_name(name, "alphas", tuple(self._known))
            if layer in self._groups:
                values.setdefault(layer, []).append(float(alpha))
        good = {name: [a for a in found if is_exponent(a)] for name, found in values.items()}
        return {name: math.fsum(a) / len(a) if a else math.nan for name, a in good.items()}

    def _check_optimizer(self) -> None:
        subject = type(self._optimizer).__name__
        groups = getattr(self._optimizer, "param_groups", None)
        if not isinstance(groups, list):
            raise SelectionError("E_OPTIMIZER", subject, "has no param_groups", "pass an optimizer")
        if any(group.get(self.key) is None for group in groups):
            reason = f"a group has no {self.key} to multiply"
            raise SelectionError("E_OPTIMIZER", subject, reason, "pass one that has")
        theirs = getattr(getattr(self._scheduler, "optimizer", None), "param_groups", groups)
        if theirs is not groups:
            reason = "the scheduler is that of another optimizer"
            raise SelectionError("E_OPTIMIZER", subject, reason, "build it on this one")


class LayerwiseLR(_Layerwise):
    """Learning rates by layer, from the layers' own spectra, beside any scheduler.

    Layers whose alpha is large (light tails, little learnt) get a larger share of the scheduled rate.
    ``step`` takes the place of the scheduler's; ``update`` measures and sets the multipliers. All
    begin at 1. Weights, gradients and random numbers are not touched.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
        With at most one layer a group: see `parameter_groups`. What shares the group of a layer, its
        bias, shares its rate; other groups are left alone.
    scheduler : torch.optim.lr_scheduler.LRScheduler, optional
        Any, `ReduceLROnPlateau` and chains included; built before, and then stepped only by this.
    rule : LayerRule, default: TEMPBALANCE
        Or LLR, or one's own.
    layers, exclude : str or sequence of str
        Glob patterns on names, as for ``spectra.analyze``. Embeddings, heads, frozen and small layers
        have no say whatever the patterns. The papers' programs also leave out the first layer they
        meet: ``exclude="conv1"``.
    saves_scheduler : bool, default: False
        Make the scheduler's state part of this one's, for trainers that save only what they step.

    Raises
    ------
    SelectionError
        If a group mixes layers, the optimizer sets its own rates (Adafactor with relative_step,
        schedule-free), or a pattern matches nothing.

    Notes
    -----
    Alphas are those of the ``htsr`` convention: the papers' formula, with eigenvalues that rounding
    could have made left out, where their programs keep zeros. Every process of a distributed run
    measures alike; where weights are sharded, give the alphas to ``update``.

    References
    ----------
    .. [1] Zhou et al., Temperature Balancing, Layer-wise Weight Analysis, and Neural Network
       Training, NeurIPS 2023 (arXiv 2312.00359).

    Examples
    --------
    >>> import torch
    >>> from spectra.training import LayerwiseLR, parameter_groups
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.Linear(96, 64))
    >>> optimizer = torch.optim.SGD(parameter_groups(model), lr=0.1)
    >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    >>> control = LayerwiseLR(model, optimizer, scheduler)
    >>> control.update({"0.weight": 2.0, "1.weight": 3.0})  # or measure: control.update()
    {'0.weight': 0.5, '1.weight': 1.5}
    >>> [round(rate, 3) for rate in control.get_last_lr()]
    [0.05, 0.15]
    """

    key = "lr"

    def __init__(
        self,
        model: "nn.Module",
        optimizer: Any,  # noqa: ANN401 - torch's, or a wrapper with its param_groups
        scheduler: Any = None,  # noqa: ANN401 - any object with step()
        *,
        rule: LayerRule = TEMPBALANCE,
        layers: str | Sequence[str] = (),
        exclude: str | Sequence[str] = (),
        saves_scheduler: bool = False,
    ) -> None:
        super().__init__(
            model,
            optimizer,
            scheduler,
            rule=rule,
            layers=layers,
            exclude=exclude,
            saves_scheduler=saves_scheduler,
        )

    def step(self, *arguments: Any, rate: float | None = None) -> None:  # noqa: ANN401 - the scheduler's
        """Step the scheduler, if there is one, and apply the multipliers to what it says.

        To be called where the scheduler's ``step`` would be; the rule's ``every`` and ``ramp`` count
        these calls.

        Parameters
        ----------
        *arguments
            Go to the scheduler, as the metric of ``ReduceLROnPlateau`` does.
        rate : float, optional
            Without a scheduler: what a schedule of one's own says now, for all groups. A rate written
            into a group by hand is taken for one that holds its multiplier already.

        Raises
        ------
        SelectionError
            If there is no scheduler to take the arguments, or one and a rate.
        """
        scheduled = self._scheduler is not None
        if (arguments and not scheduled) or (rate is not None and scheduled):
            reason = "a scheduler sets the rate" if scheduled else "no scheduler takes arguments"
            advice = "pass rate=... without a scheduler, and its own arguments with one"
            raise SelectionError("E_VALUE", "step", reason, advice)
        self._step(arguments, rate)

    def get_last_lr(self) -> list[float]:
        """Return the rates in force, one a group; the scheduler's own method says what is scheduled."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def _check_optimizer(self) -> None:
        groups = getattr(self._optimizer, "param_groups", ())
        subject = type(self._optimizer).__name__
        for group in groups:
            if group.get("relative_step"):
                reason = "sets its own rates (relative_step=True) and reads no lr"
                raise SelectionError("E_OPTIMIZER", subject, reason, "pass relative_step=False")
            if "weight_sum" in group and "train_mode" in group:
                reason = "is schedule-free: its averages are weighted by the lr of all steps"
                raise SelectionError(
                    "E_OPTIMIZER", subject, reason, "use an optimizer with a schedule"
                )
        super()._check_optimizer()


class LayerwiseDecay(_Layerwise):
    """Weight decay by layer, from the layers' own spectra: more for lighter tails (AlphaDecay).

    ``step`` is called after every optimizer step, and measures as often as the rule says. A group
    without weight decay keeps none. In optimizers whose decay is multiplied by the rate (AdamW, SGD)
    the effect of a `LayerwiseLR` on the same groups is multiplied in too.

    Parameters
    ----------
    model, optimizer, layers, exclude
        As for `LayerwiseLR`.
    rule : LayerRule, default: ALPHADECAY
        Or ALPHADECAY_SIGMOID, which sets each layer against the others of its block.

    Raises
    ------
    SelectionError
        If a group mixes layers or has no weight decay, or a pattern matches nothing.

    References
    ----------
    .. [1] AlphaDecay, 2025; the table of maps is that of its published program.

    Examples
    --------
    >>> import torch
    >>> from spectra.training import LayerwiseDecay, parameter_groups
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.Linear(96, 64))
    >>> optimizer = torch.optim.AdamW(parameter_groups(model), lr=1e-3, weight_decay=0.1)
    >>> control = LayerwiseDecay(model, optimizer)
    >>> control.update({"0.weight": 2.0, "1.weight": 3.0})
    {'0.weight': 0.67, '1.weight': 5.0}
    """

    key = "weight_decay"

    def __init__(
        self,
        model: "nn.Module",
        optimizer: Any,  # noqa: ANN401 - torch's, or a wrapper with its param_groups
        *,
        rule: LayerRule = ALPHADECAY,
        layers: str | Sequence[str] = (),
        exclude: str | Sequence[str] = (),
    ) -> None:
        super().__init__(model, optimizer, rule=rule, layers=layers, exclude=exclude)

    def step(self) -> None:
        """Count a step of the optimizer, move along a ramp, and measure where the rule says so."""
        self._step()

    def _check_optimizer(self) -> None:
        super()._check_optimizer()
        if not any(group[self.key] for group in self._optimizer.param_groups):
            subject, reason = type(self._optimizer).__name__, "weight_decay is 0 in every group"
            raise SelectionError("E_OPTIMIZER", subject, reason, "give it some to multiply")
