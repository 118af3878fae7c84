"""Surgery on neurons of a loaded model: give them copies, add places for neurons that do nothing, blend them.

Duplication keeps what the model computes. A neuron's copies have its gate and up weights (and their biases), and its
column of W_down is split over them: every output dimension has random shares of its own that sum to 1. With equal
shares the copies would get equal gradients for ever and stay one neuron in effect. A configuration of transformers has
one width for all experts, so every expert grows by as many places; those that hold no copy are inert: all weights 0,
which compute nothing and, since act(0) · 0 passes no gradient, learn nothing.

Blending does change what the model computes.

Neurons are numbered as `moemui.geometry` does. Everything here returns a copy and leaves the model given as it is.
Models are taken as `moemui.tap.families` finds them; what it refuses is refused here, and besides experts that are one
module each, shared experts in one 3-D weight, widths that differ by layer, and models that their configuration can't
make wider.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from moemui.experiments.causal_generalization.neuron_weights import Group, groups
from moemui.geometry import Geometry
from moemui.tap import families
from moemui.tap.families import UnsupportedModelError

MULTIPLE = 8  # of new widths: transformers' grouped matrix product wants rows of whole 16 bytes in every type
NOTHING_COPIED = np.empty((0, 0), dtype=np.int64)
# Parts of the names that transformers' configurations have for the widths of MLPs.
WIDTH_NAMES = ("intermediate", "moe_hidden_size")


@dataclass(frozen=True)
class Operated:
    """A model after surgery, with the new numbers of its former neurons.

    geometry: of the new model. places: int64, (former neurons,), the new number of each. copies: int64, (neurons
    operated on, copies), the new numbers of each one's copies in the order of the neurons given, its own place first;
    without columns where nothing was copied.
    """

    model: Any
    geometry: Geometry
    places: np.ndarray
    copies: np.ndarray


def widen(model: Any, places: int) -> Operated:
    """A copy of a model each of whose experts has at least so many more neurons, all of them inert.

    Widths become multiples of `MULTIPLE`. What the model computes stays the same, and so does what it can learn.
    Raises ValueError for fewer than 0 places, UnsupportedModelError for a model that can't be operated on.
    """
    if places < 0:
        raise ValueError(f"places is {places}; an expert gets 0 or more")
    sites = families.sites(model)
    narrow = list(groups(sites))
    before = families.geometry(sites)
    after = _wider(before, places)
    own = {part.tensor for group in narrow for part in group.parts}
    widened = _of_geometry(model, before, after, own)
    for (_, new), (_, old) in zip(widened.named_parameters(), model.named_parameters(), strict=True):
        new.data = torch.zeros_like(new, dtype=old.dtype, device=old.device) if old in own else old.detach().clone()
        new.requires_grad_(old.requires_grad)
    for (_, new), (_, old) in zip(widened.named_buffers(), model.named_buffers(), strict=True):
        new.data = old.clone()
    numbers = []
    for group, wide in zip(narrow, groups(families.sites(widened)), strict=True):
        for mine, wider in zip(group.parts, wide.parts, strict=True):
            wide.view(wider)[:, : group.width] = group.view(mine)
        numbers.append(wide.numbers()[:, : group.width].ravel())
    return Operated(widened, after, np.concatenate(numbers), NOTHING_COPIED)


def duplicate(model: Any, neurons: np.ndarray, *, copies: int, seed: int, places: int | None = None) -> Operated:
    """A copy of a model in which each of some neurons is `copies` neurons of its expert that sum to what it was.

    neurons: flat numbers, each once. copies: 2 or more, the neuron itself counted. seed: of the random shares. places:
    neurons that every expert gets more, so that several models come out with one geometry; None is as many as needed.
    What the model computes stays the same but for rounding. Raises ValueError for neurons that don't exist or repeat,
    too few copies, or too few places, UnsupportedModelError for a model that can't be operated on.
    """
    geometry = families.geometry(families.sites(model))
    neurons = _checked(neurons, geometry)
    if copies < 2:
        raise ValueError(f"copies is {copies}; a neuron and its copies are 2 or more")
    each = np.bincount(geometry.expert_of(neurons), minlength=geometry.experts)
    needed = (copies - 1) * int(each.max(initial=0))
    if places is not None and places < needed:
        raise ValueError(f"places is {places}, but an expert gets up to {needed} copies; give it at least as many")
    operated = widen(model, needed if places is None else places)
    generator = torch.Generator().manual_seed(seed)
    free = operated.geometry.expert_offsets[:-1] + np.diff(geometry.expert_offsets)  # first place of each that is new
    found = np.empty((len(neurons), copies), dtype=np.int64)
    for row, expert in enumerate(geometry.expert_of(neurons)):
        found[row] = [operated.places[neurons[row]], *range(free[expert], free[expert] + copies - 1)]
        free[expert] += copies - 1
    for group in groups(families.sites(operated.model)):
        for numbers in found[group.holds(found[:, 0])]:
            _split(group, numbers, generator)
    return replace(operated, copies=found)


def blend(model: Any, neurons: np.ndarray, partners: np.ndarray, *, share: float) -> Operated:
    """A copy of a model in which the weights of some neurons are (1 − share) · their own + share · their partner's.

    neurons, partners: flat numbers, of equal length; a partner is a neuron of another expert of the same layer and kind
    (routed, shared) and may be named several times; all weights are read before any is written. The model computes
    something else afterwards. Raises ValueError for a share outside 0..1 and for pairs that can't be blended,
    UnsupportedModelError for a model that can't be operated on.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it lies between 0 and 1")
    blended = copy.deepcopy(model)
    sites = families.sites(blended)
    geometry = families.geometry(sites)
    neurons = _checked(neurons, geometry)
    partners = np.asarray(partners, dtype=np.int64)
    if partners.shape != neurons.shape:
        raise ValueError(f"there are {len(neurons)} neurons and {len(partners)} partners; each neuron has one")
    fitting = np.zeros(len(neurons), dtype=bool)
    for group in groups(sites):
        own = group.holds(neurons)
        fitting |= own & group.holds(partners) & (geometry.expert_of(neurons) != geometry.expert_of(partners))
        (expert, place), (other, from_place) = group.place(neurons[own & fitting]), group.place(partners[own & fitting])
        for part in group.parts:
            view = group.view(part)
            view[expert, place] = (1 - share) * view[expert, place] + share * view[other, from_place]
    if not fitting.all():
        pair = int((~fitting).argmax())
        raise ValueError(
            f"neuron {neurons[pair]} can't be blended with {partners[pair]}; a partner is of another expert of the "
            "same layer, routed for a routed neuron and shared for a shared one"
        )
    return Operated(blended, geometry, np.arange(geometry.neurons), NOTHING_COPIED)


def nearest(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Every neuron's most similar neuron among the other experts of its layer and kind, by all weights but biases.

    Returns its flat number, int64, (neurons,), and the cosine of both neurons' weights (gate, up and down behind one
    another), float64, −1..1; −1 and NaN for a neuron without weights and where there is no other expert. The lowest
    number among equals.
    """
    sites = families.sites(model)
    count = families.geometry(sites).neurons
    partner, cosine = np.full(count, -1, dtype=np.int64), np.full(count, np.nan)
    for group in groups(sites):
        vectors, numbers = group.vectors(), group.numbers()
        directions = torch.nan_to_num(vectors / vectors.norm(dim=2, keepdim=True)).flatten(0, 1)
        inert = (directions == 0).all(1)
        for expert, own in enumerate(numbers):  # an expert at a time: all pairs at once would fill the memory
            alike = directions[expert * group.width : (expert + 1) * group.width] @ directions.T
            alike[:, expert * group.width : (expert + 1) * group.width] = -torch.inf
            alike[:, inert] = -torch.inf
            alike[inert[expert * group.width : (expert + 1) * group.width]] = -torch.inf
            highest, found = (part.cpu().numpy() for part in alike.max(dim=1))
            known = np.isfinite(highest)
            partner[own[known]], cosine[own[known]] = numbers.ravel()[found[known]], highest[known]
    return partner, cosine


def alike(model: Any, pairs: np.ndarray) -> np.ndarray:
    """Cosine of the gate and up weights of pairs of neurons, as they are 1 for copies: float64, (pairs,), −1..1.

    pairs: flat numbers, (pairs, 2), both of one layer and kind; NaN for other pairs and where one has no weights.
    """
    cosine = np.full(len(pairs), np.nan)
    for group in groups(families.sites(model)):
        own = group.holds(pairs).all(axis=1)
        vectors = group.vectors(output=False).flatten(0, 1)[torch.as_tensor(pairs[own] - group.first)].double()
        directions = vectors / vectors.norm(dim=2, keepdim=True)
        cosine[own] = directions.prod(dim=1).sum(dim=1).cpu().numpy()
    return cosine


def _split(group: Group, numbers: np.ndarray, generator: torch.Generator) -> None:
    """Make the neurons of these flat numbers, inert but for the first, copies of the first that sum to it."""
    expert, places = group.place(numbers)
    for part in group.parts:
        view = group.view(part)
        own = view[expert[0], places[0]].clone()
        if part.output:
            drawn = torch.empty((len(places), *own.shape), dtype=torch.float64).exponential_(generator=generator)
            pieces = (drawn / drawn.sum(0)).to(own) * own  # all shares that sum to 1 are equally likely
            pieces[0] = own - pieces[1:].sum(0)  # so that what rounding takes is not lost
            view[expert, places] = pieces
        else:
            view[expert, places] = own


def _wider(geometry: Geometry, places: int) -> Geometry:
    """The geometry with at least so many more neurons in every expert.

    Shared experts that are fused into one MLP are told from one of a width of its own by their width alone, so this
    takes care that a width of its own does not become a multiple of a routed expert's.
    """

    def up(width: int) -> int:
        return -(-(width + places) // MULTIPLE) * MULTIPLE if width and places else width

    layers = []
    for layer in geometry.layers:
        width, shared_width = up(layer.width), up(layer.shared_width)
        while layer.routed and layer.shared and layer.shared_width != layer.width and shared_width % width == 0:
            shared_width += MULTIPLE
        layers.append(replace(layer, width=width, shared_width=shared_width))
    return Geometry(tuple(layers))


def _of_geometry(model: Any, before: Geometry, after: Geometry, own: set[Any]) -> Any:
    """A model of the same class and configuration but for its experts' widths, with weights of no meaning.

    own: the model's parameters that may have another shape in it.
    Raises UnsupportedModelError where no widths in the configuration make such a model.
    """
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(
            f"{type(model).__name__} is no model class of transformers, so none like it can be made wider; load the "
            "checkpoint with AutoModelForCausalLM"
        )
    new_widths: dict[int, set[int]] = {}
    for old, new in zip(before.layers, after.layers, strict=True):
        for width, wide in (
            (old.width, new.width),
            (old.shared_width, new.shared_width),
            (old.shared * old.shared_width, new.shared * new.shared_width),
        ):
            new_widths.setdefault(width, {width}).add(wide)
    text = model.config.get_text_config(decoder=True).to_dict()
    names = {
        name: sorted(new_widths[value])
        for name, value in text.items()
        if isinstance(value, int) and value in new_widths and any(part in name for part in WIDTH_NAMES)
    }
    # Fewest changes first: a dense layer in between may have an expert's width by chance, and keeps it.
    choices = [dict(zip(names, values, strict=True)) for values in product(*names.values())]
    for chosen in sorted(choices, key=lambda chosen: sum(chosen[name] != text[name] for name in names)):
        config = copy.deepcopy(model.config)
        for name, value in chosen.items():
            setattr(config.get_text_config(decoder=True), name, value)
        if _fits(config, model, after, own):
            with torch.random.fork_rng(devices=[]):
                wider = type(model)(config).train(model.training)
            wider.generation_config = copy.deepcopy(model.generation_config)
            return wider
    found = ", ".join(f"{name} {text[name]}" for name in names) or "none"
    raise UnsupportedModelError(
        f"{type(model).__name__} can't be made wider by the widths in its configuration ({found}): experts of all "
        "layers must have one width that stands there; choose another model"
    )


def _fits(config: Any, model: Any, geometry: Geometry, own: set[Any]) -> bool:
    """Whether a configuration makes a model of that geometry, and all weights but `own` of the shapes they have."""
    with torch.device("meta"):
        candidate = type(model)(config)
    return families.geometry(families.sites(candidate)) == geometry and all(
        old in own or old.shape == new.shape
        for old, new in zip(model.parameters(), candidate.parameters(), strict=True)
    )


def _checked(neurons: np.ndarray, geometry: Geometry) -> np.ndarray:
    found = np.asarray(neurons, dtype=np.int64)
    if len(found) and not 0 <= found.min() <= found.max() < geometry.neurons:
        raise ValueError(f"neurons {found.min()}..{found.max()} lie outside 0..{geometry.neurons - 1}")
    if len(np.unique(found)) < len(found):
        raise ValueError("a neuron is named twice; name each once")
    return found
