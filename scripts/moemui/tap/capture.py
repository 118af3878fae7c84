"""One tap for every architecture: see, score and mask neurons while a model runs as it always does.

transformers runs all routed experts through one dispatch. `Tap` registers an experts forward there that computes what
`grouped_mm` computes, and hooks the shared (or dense, or listed) MLPs at their projections. What passes by is handed to
an observer or multiplied by a mask; the model's own code is never copied.

What a block does to its experts' sum (a routed scale, an average, a latent projection, a shared expert's gate, a norm)
is not known by name either: head vectors are pulled back through it by autograd, with the scale of norms frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moemui.tap import experts_forward
from moemui.tap.families import Site, UnsupportedModelError
from moemui.tap.tapped_layer import Observer, TappedLayer

IMPLEMENTATION = "moemui"


class Tap:
    """A context manager under which every forward pass of a model is observed, masked, or both.

    sites: the model's, what `families.sites` returns. observer: gets every layer's pass; None observes nothing.
    masked_neurons: per site the indices inside the layer of the neurons whose intermediate activation is set to 0; None
    masks nothing, and masked experts pass no gradients. wanted: bool (tokens,) of the flattened batch, the tokens whose
    neurons are handed on; None hands on all.

    On leaving, also after an exception, the model is as it was. While it holds, compiled code runs eagerly, and the
    model belongs to one thread. Raises UnsupportedModelError for weights that are not in memory and for gates that are
    no product, RuntimeError where the model is tapped already and where experts were bypassed, as hub kernels do.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        observer: Observer | None = None,
        masked_neurons: Sequence[torch.Tensor] | None = None,
        wanted: torch.Tensor | None = None,
    ):
        if masked_neurons is not None and len(masked_neurons) != len(sites):
            raise ValueError(f"masked_neurons has {len(masked_neurons)} layers, the model {len(sites)}")
        self.sites = sites
        masks: Sequence[torch.Tensor | None] = [None] * len(sites) if masked_neurons is None else masked_neurons
        self._layers = [
            TappedLayer(position, site, observer, keep_neurons(site, masked), wanted)
            for position, (site, masked) in enumerate(zip(sites, masks, strict=True))
        ]
        self._undo: ExitStack | None = None

    def __enter__(self) -> Tap:
        if self._undo is not None:
            raise RuntimeError("this Tap is entered already; make another one when it is left")
        ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, experts_forward.forward)
        with ExitStack() as undo:
            undo.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code calls no hooks
            undo.enter_context(experts_implementation(self.sites, IMPLEMENTATION))
            for layer in self._layers:
                undo.callback(layer.detach)
                layer.attach()
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._undo is not None
        undo, self._undo = self._undo, None
        undo.close()


@contextmanager
def experts_implementation(sites: Sequence[Site], name: str) -> Iterator[None]:
    """Run the sites' routed experts through one of transformers' implementations, and afterwards as before."""
    # Set where the experts read it: a model around a text model may know nothing of experts.
    configs = {id(site.experts.config): site.experts.config for site in sites if site.experts is not None}
    before = {key: config._experts_implementation for key, config in configs.items()}
    if "deepgemm_megamoe" in before.values():
        raise UnsupportedModelError(
            "the experts were loaded as deepgemm_megamoe, which changes their weights and can't be left; load the "
            "model without it"
        )
    try:
        for config in configs.values():
            config._experts_implementation_internal = name
        yield
    finally:
        for key, config in configs.items():
            config._experts_implementation_internal = before[key]


def keep_neurons(site: Site, masked: torch.Tensor | None) -> torch.Tensor | None:
    """1 for every neuron of the layer that stays and 0 for a masked one: float32 (M_l,); None where none is masked."""
    if masked is None:
        return None
    layer = site.layer
    if len(masked) and not 0 <= int(masked.min()) <= int(masked.max()) < layer.neurons:
        found = f"{int(masked.min())}..{int(masked.max())}"
        raise ValueError(f"layer {layer.index}: masked neurons {found} lie outside 0..{layer.neurons - 1}")
    keep = torch.ones(layer.neurons, dtype=torch.float32)
    keep[masked.long()] = 0
    return keep
