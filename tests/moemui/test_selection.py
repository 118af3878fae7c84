"""From ranked entries to key sets: every rule by hand, and against sorting all scores."""

import itertools
import json

import made_up_scores
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moemui.geometry import Geometry, Layer
from moemui.key_neurons import files as key_neurons
from moemui.key_neurons import rules, selection
from moemui.key_neurons.rules import global_count, select_per_token
from moemui.key_neurons.selection import select, select_key_neurons
from moemui.key_neurons.settings import RULES, Setting
from moemui.scores import extraction

# Layer 0: 2 routed experts of 4 neurons; layer 2: 1 routed of 4 and 1 shared of 6. 8 + 10 = 18 neurons, 4 experts.
GEOMETRY = Geometry((Layer(0, 2, 0, 4, 0, 1), Layer(2, 1, 1, 4, 6, 1)))


def ranked(*samples):
    """Neurons (samples, layers, ranks) and falling scores beside them."""
    neuron = np.array(samples, dtype=np.int32)
    return {"neuron": neuron, "score": np.broadcast_to(-np.arange(neuron.shape[2], dtype=np.float32), neuron.shape)}


def as_lists(sets):
    return [sets.neurons[a:b].tolist() for a, b in zip(sets.indptr[:-1], sets.indptr[1:], strict=True)]


def test_by_hand_two_layers_repeats_and_an_exhausted_layer():
    # η = 0.3: k = floor(0.3·8) = 2 and floor(0.3·10) = 3; layer 2 starts at flat number 8
    sets = select(
        **ranked(
            [[5, 1, 0], [9, 9, 2]],  # 9 for two tokens counts once
            [[3, -1, -1], [-1, -1, -1]],
            [[-1, -1, -1], [-1, -1, -1]],  # an empty response
        ),
        geometry=GEOMETRY,
        threshold=0.3,
    ).sets
    assert as_lists(sets) == [[1, 5, 10, 17], [3], []]
    assert sets.n_samples == 3
    assert sets.neurons.dtype == np.int32
    assert sets.incidence(18).tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert sets.union().tolist() == [1, 3, 5, 10, 17]


def test_no_samples_give_no_sets():
    empty = np.empty((0, 2, 3), dtype=np.int32)
    sets, incomplete, undefined = select(neuron=empty, score=empty.astype(np.float32), geometry=GEOMETRY, threshold=0.3)
    assert incomplete.shape == undefined.shape == (0, 2)
    assert (sets.n_samples, sets.union().tolist(), sets.incidence(18).sum()) == (0, [], 0)


@st.composite
def ranked_entries(draw):
    shape = (draw(st.integers(0, 5)), 2, 4)
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    neuron = np.stack([generator.integers(0, m, size=(shape[0], 4)) for m in (8, 10)], axis=1).astype(np.int32)
    filled = generator.integers(0, 5, size=shape[:2])
    neuron[np.arange(4) >= filled[..., None]] = -1
    return neuron, -np.sort(generator.integers(0, 3, size=shape).astype(np.float32), axis=2)


@settings(max_examples=60, deadline=None)
@given(ranked_entries(), st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.4]), st.integers(1, 3))
def test_select_matches_a_loop_over_samples_and_layers(entries, threshold, at_once):
    neuron, score = entries
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "SAMPLES_AT_ONCE", at_once)
        sets = select(neuron=neuron, score=score, geometry=GEOMETRY, threshold=threshold).sets
    k = GEOMETRY.key_count(threshold)
    expected = [
        sorted({offset + int(j) for row, n, offset in zip(sample, k, (0, 8), strict=True) for j in row[:n] if j >= 0})
        for sample in neuron
    ]
    assert as_lists(sets) == expected


def test_smaller_threshold_gives_subsets():
    entries = ranked([[5, 1, 0], [9, 3, 2]])
    small, large = (set(select(**entries, geometry=GEOMETRY, threshold=t).sets.union()) for t in (0.1, 0.3))
    assert small < large


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rule": "best"}, "rule is 'best'; allowed: topk, top_score, global_topk"),
        (
            {"rule": "top_score", "selection": "per_token"},
            "rule top_score chooses by score, but selection 'per_token' has none stored; allowed: pairs, neurons",
        ),
        ({"rule": "top_score", "threshold": 1.1}, "threshold is 1.1"),
        ({"rule": "global_topk"}, r"breaks ties by token, but tokens have shape None; give them in shape \(1, 2, 3\)"),
        ({"rule": "top_score", **ranked([[5, 1, -1], [9, -1, 3]])}, "layer 2, rank 1: scores are NaN or not in fall"),
        ({"threshold": 0.5}, r"threshold 0.5 needs k = 5 ranked entries .* largest stored k is 3; .*thresholds"),
        ({"threshold": 0.0}, "threshold is 0"),
        ({"score": np.zeros((1, 2, 2), dtype=np.float32)}, r"shape \(1, 2, 3\) and scores \(1, 2, 2\)"),
        (ranked([[5, 8, 0], [0, 1, 2]]), "sample 0, layer 0, rank 1: neuron 8 is outside the layer's 8 neurons"),
        (ranked([[5, 1, 0], [0, -2, 2]]), "sample 0, layer 2, rank 1: neuron -2 is outside"),
        (ranked([[5, 1, 0], [-1, 1, 2]]), "sample 0, layer 2, rank 0: scores are NaN or not in falling order"),
        ({"score": np.full((1, 2, 3), np.nan, dtype=np.float32)}, "scores are NaN or not in falling order"),
        ({"score": np.arange(6, dtype=np.float32).reshape(1, 2, 3)}, "not in falling order; the store is damaged"),
    ],
)
def test_select_refuses(change, text):
    arguments = {**ranked([[5, 1, 0], [9, 3, 2]]), "geometry": GEOMETRY, "threshold": 0.3} | change
    with pytest.raises(ValueError, match=text):
        select(**arguments)


def test_only_used_ranks_are_checked():
    entries = ranked([[5, 1, 0], [9, 3, 2]])
    score = entries["score"].copy()
    score[0, 0, 2] = np.nan  # beyond k = 2 of layer 0
    sets = select(neuron=entries["neuron"], score=score, geometry=GEOMETRY, threshold=0.3).sets
    assert sets.union().tolist() == [1, 5, 10, 11, 17]


def stored(samples, ranks, selection):
    """What a store of so many ranks holds of samples, each a list of layers of (−score, token, neuron) in order."""
    shape = (len(samples), len(GEOMETRY.layers), ranks)
    neuron, token = (np.full(shape, -1, dtype=np.int32) for _ in range(2))
    score = np.zeros(shape, dtype=np.float32)
    for (s, layers), position in itertools.product(enumerate(samples), range(shape[1])):
        for rank, (falling, t, j) in enumerate(layers[position][:ranks]):
            neuron[s, position, rank], token[s, position, rank], score[s, position, rank] = j, t, -falling
    return {"neuron": neuron, "token": token, "score": score, "geometry": GEOMETRY, "selection": selection}


def entries_of(scores, selection):
    """All (−score, token, neuron) of a layer in the order of SPEC 3. scores: (tokens, neurons), NaN where not used."""
    entries = sorted((-scores[t, j], t, j) for t, j in zip(*np.nonzero(~np.isnan(scores)), strict=True))
    if selection == "neurons":
        entries = [entry for i, entry in enumerate(entries) if entry[2] not in [j for *_, j in entries[:i]]]
    return [(float(falling), int(t), int(j)) for falling, t, j in entries]


def by_definition(layers, rule, threshold):
    """The key set of each layer, from all entries of a sample."""
    if rule == "global_topk":
        pooled = sorted((f, t, offset + j) for own, offset in zip(layers, (0, 8), strict=True) for f, t, j in own)
        flat = {j for *_, j in pooled[: max(1, int(threshold * 18 + 1e-9))]}
        return [{j for j in flat if j < 8}, {j - 8 for j in flat if j >= 8}]
    if rule == "topk":
        return [{j for *_, j in own[:k]} for own, k in zip(layers, GEOMETRY.key_count(threshold), strict=True)]
    found = []
    for own in layers:
        highest = -own[0][0] if own else 0
        found.append({j for falling, _, j in own if highest > 0 and -falling >= threshold * highest})
    return found


def by_layer(sets):
    return [[{j for j in own if j < 8}, {j - 8 for j in own if j >= 8}] for own in as_lists(sets)]


@st.composite
def all_scores(draw, ties=True):
    """Scores of some samples, (tokens, neurons) a layer; some neurons were not used by some tokens."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples = []
    for tokens in draw(st.lists(st.integers(0, 4), max_size=4)):
        layers = [generator.integers(-2, 4, (tokens, m)).astype(float) for m in (8, 10)]
        if not ties:
            layers = [generator.normal(size=own.shape).astype(np.float32).astype(float) for own in layers]
        for own in layers:
            own[generator.random(own.shape) < draw(st.sampled_from([0.0, 0.5]))] = np.nan
        samples.append(layers)
    return samples


ANY_RULE = st.sampled_from(RULES)
ANY_SELECTION = st.sampled_from(["pairs", "neurons"])
ANY_THRESHOLD = st.sampled_from([0.06, 0.1, 0.2, 1 / 3, 0.5, 0.8, 1.0])
EVERYTHING = 41  # ranks: more than the 4 · 10 entries that a layer can have


@settings(max_examples=200, deadline=None)
@given(
    all_scores(), ANY_RULE, ANY_SELECTION, ANY_THRESHOLD, st.integers(1, 12) | st.just(EVERYTHING), st.integers(1, 3)
)
def test_every_rule_is_its_definition_or_a_part_of_it_that_is_named(
    samples, rule, selection, threshold, ranks, at_once
):
    ranks = max(ranks, int(GEOMETRY.key_count(threshold).max())) if rule == "topk" else ranks
    full = [[entries_of(layer, selection) for layer in sample] for sample in samples]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moemui.key_neurons.selection.SAMPLES_AT_ONCE", at_once)
        found = select(**stored(full, ranks, selection), threshold=threshold, rule=rule)
    if ranks == EVERYTHING or rule == "topk":
        assert not found.incomplete.any()
    for s, (own, layers) in enumerate(zip(by_layer(found.sets), full, strict=True)):
        expected = by_definition(layers, rule, threshold)
        for position in range(2):
            assert own[position] <= expected[position]
            assert own[position] == expected[position] or found.incomplete[s, position]
            nothing = rule == "top_score" and bool(layers[position]) and layers[position][0][0] >= 0
            assert found.undefined[s, position] == nothing


@settings(max_examples=200, deadline=None)
@given(
    all_scores(ties=False),
    st.sampled_from(["top_score", "global_topk"]),
    ANY_SELECTION,
    ANY_THRESHOLD,
    st.integers(1, 12),
)
def test_a_cell_is_incomplete_only_where_its_set_could_be_larger(samples, rule, selection, threshold, ranks):
    full = [[entries_of(layer, selection) for layer in sample] for sample in samples]
    found = select(**stored(full, ranks, selection), threshold=threshold, rule=rule)
    for s, position in np.argwhere(found.incomplete):
        seen = [own[:ranks] for own in full[s]]  # there was nothing more, or this layer had one more entry
        possible = [seen]
        for neuron in set(range((8, 10)[position])) - {j for *_, j in seen[position]}:
            longer = list(seen)
            longer[position] = (
                [*seen[position], (seen[position][-1][0], 99, neuron)]
                if len(seen[position]) == ranks
                else seen[position]
            )
            possible.append(longer)
        own = by_layer(found.sets)[s][position]
        assert any(own < by_definition(layers, rule, threshold)[position] for layers in possible)


@settings(max_examples=60, deadline=None)
@given(all_scores(), ANY_RULE, ANY_SELECTION, st.integers(10, 20), st.integers(0, 2**32 - 1))
def test_the_order_of_samples_changes_nothing(samples, rule, selection, ranks, seed):
    entries = stored([[entries_of(layer, selection) for layer in sample] for sample in samples], ranks, selection)
    order = np.random.default_rng(seed).permutation(len(samples))
    shuffled = entries | {name: entries[name][order] for name in ("neuron", "token", "score")}
    one, other = (select(**given_, threshold=0.4, rule=rule) for given_ in (entries, shuffled))
    lists = as_lists(one.sets)
    assert as_lists(other.sets) == [lists[s] for s in order]
    np.testing.assert_array_equal(other.incomplete, one.incomplete[order])
    np.testing.assert_array_equal(other.undefined, one.undefined[order])


def test_top_score_by_hand():
    entries = {
        "neuron": np.array([[[5, 1, 5, 0], [9, 9, 2, 4]], [[3, 2, -1, -1], [-1, -1, -1, -1]]], dtype=np.int32),
        "score": np.array([[[8, 4, 3, 1], [2, 1, 1, 1]], [[0, -1, 0, 0], [0, 0, 0, 0]]], dtype=np.float32),
        "geometry": GEOMETRY,
        "rule": "top_score",
    }
    half = select(**entries, threshold=0.5)
    # Layer 0 asks for 4: neurons 5 and 1. Layer 2 for 1: all four entries, so a fifth could pass too.
    assert as_lists(half.sets) == [[1, 5, 10, 12, 17], []]
    assert half.incomplete.tolist() == [[False, True], [False, False]]
    # Sample 1's highest score of layer 0 is 0: undefined. Its layer 2 has no entries, so nothing is undefined there.
    assert half.undefined.tolist() == [[False, False], [True, False]]
    assert as_lists(select(**entries, threshold=1.0).sets) == [[5, 17], []]
    # An eighth of 8 is 1, which the last entry just has: equal ones may follow.
    assert select(**entries, threshold=0.125).incomplete.tolist() == [[True, True], [False, False]]
    assert select(**entries, threshold=0.13).incomplete.tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("rule", ["top_score", "global_topk"])
def test_layers_of_which_every_neuron_is_stored_lack_none(rule):
    small = Geometry((Layer(0, 1, 0, 2, 0, 1), Layer(1, 1, 0, 2, 0, 1)))
    entries = {
        "neuron": np.array([[[1, 0], [0, 1]]]),
        "token": np.array([[[0, 1], [0, 1]]]),
        "score": np.array([[[2.0, 2.0], [1.0, 1.0]]]),
    }
    # With `neurons` there are no other entries.
    found = select(**entries, geometry=small, threshold=1.0, rule=rule, selection="neurons")
    assert as_lists(found.sets) == [[0, 1, 2, 3]]
    assert not found.incomplete.any()
    # With `pairs` the first layer may have more, which are above all of the second; but no other neurons.
    found = select(**entries, geometry=small, threshold=1.0, rule=rule, selection="pairs")
    assert as_lists(found.sets) == [[0, 1] if rule == "global_topk" else [0, 1, 2, 3]]
    assert found.incomplete.tolist() == [[False, rule == "global_topk"]]


# η = 1/6 of 18 neurons: K = 3.
GLOBAL = {"geometry": GEOMETRY, "rule": "global_topk", "threshold": 1 / 6}


def test_global_topk_by_hand_with_ties_over_layers():
    entries = {
        # At score 2 the order is: token 0, then token 1 of layer 0, then of layer 2, whose flat numbers are higher.
        "neuron": np.array([[[7, 6, 1, -1], [3, 0, 2, -1]]], dtype=np.int32),
        "token": np.array([[[1, 2, 0, -1], [0, 1, 1, -1]]], dtype=np.int32),
        "score": np.array([[[2, 2, 1, 0], [2, 2, 2, 0]]], dtype=np.float32),
    }
    found = select(**entries, **GLOBAL)
    assert as_lists(found.sets) == [[7, 8, 11]]  # neuron 3 of layer 2 at token 0, then 7 and 0 at token 1
    assert not found.incomplete.any()
    assert global_count(geometry=GEOMETRY, threshold=1 / 6) == 3
    assert global_count(geometry=GEOMETRY, threshold=0.001) == 1


@pytest.mark.parametrize(
    ("scores", "expected", "incomplete"),
    [
        # What follows 9 may be above 5, so neither 5 nor what follows is certain.
        ([[10, 9], [5, 4]], [7, 6], [True, True]),
        # Layer 0 ends as the third: nothing that follows it is among the first three.
        ([[10, 5], [7, 4]], [7, 6, 11], [False, False]),
        # Layer 2 ends as the second. The third is of layer 0.
        ([[3, 2], [9, 8]], [11, 10], [True, True]),
    ],
)
def test_global_topk_takes_only_what_is_certain(scores, expected, incomplete):
    entries = {
        "neuron": np.array([[[7, 6], [3, 2]]], dtype=np.int32),
        "token": np.zeros((1, 2, 2), dtype=np.int32),
        "score": np.array([scores], dtype=np.float32),
    }
    found = select(**entries, **GLOBAL)
    assert as_lists(found.sets) == [sorted(expected)]
    assert found.incomplete.tolist() == [incomplete]


def test_global_topk_lacks_nothing_where_what_is_not_certain_is_key_already():
    entries = {
        "neuron": np.array([[[7, 6], [3, 3]]], dtype=np.int32),
        "token": np.array([[[0, 0], [0, 1]]], dtype=np.int32),
        "score": np.array([[[9, 8], [10, 7]]], dtype=np.float32),
    }
    # K = 4: after 8 others of layer 0 may come before 7, which is the last place, and neuron 3 again.
    found = select(**entries, **GLOBAL | {"threshold": 0.23})
    assert as_lists(found.sets) == [[6, 7, 11]]
    assert found.incomplete.tolist() == [[True, False]]


def test_a_score_of_minus_infinity_ranks_before_no_entry():
    entries = {
        "neuron": np.array([[[7, -1], [3, -1]]], dtype=np.int32),
        "token": np.array([[[1, -1], [0, -1]]], dtype=np.int32),
        "score": np.array([[[1, 0], [-np.inf, 0]]], dtype=np.float32),
    }
    assert as_lists(select(**entries, **GLOBAL | {"threshold": 0.12}).sets) == [[7, 11]]  # K = 2


def test_negative_zero_and_zero_are_one_score():
    entries = {
        "neuron": np.array([[[7, -1], [3, -1]]], dtype=np.int32),
        "token": np.array([[[1, -1], [0, -1]]], dtype=np.int32),
        "score": np.array([[[0.0, 0], [-0.0, 0]]], dtype=np.float32),
    }
    assert as_lists(select(**entries, **GLOBAL | {"threshold": 0.06}).sets) == [[11]]


def test_every_rule_of_a_setting_can_be_applied():
    assert tuple(rules.BY_NAME) == RULES


def made_up(folder, **options):
    """A store of made-up scores of 20 samples, and its responses."""
    rows = made_up_scores.records([f"q{i}" for i in range(20)])
    extraction.extract(made_up_scores.Scorer(**options), rows, folder / "c.zarr", attributes={}, chunk_samples=6)
    (folder / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [row["id"] for row in rows]
    return {"stores": [folder / "c.zarr"], "responses": folder / "r.jsonl", "path": folder / "k.h5"}, names


ABOUT = {"model": "m", "checkpoint": "c", "thresholds": [0.3]}


def test_all_rules_from_a_store_to_the_file(tmp_path, caplog):
    where, names = made_up(tmp_path, selections=("pairs", "per_token"), threshold=0.5)
    select_key_neurons(**where, **ABOUT, top_score=[0.5], global_topk=[0.2, 1.0], variant="same_token")
    file = key_neurons.read(where["path"])
    wanted = [("topk", 0.3), ("top_score", 0.5), ("global_topk", 0.2), ("global_topk", 1.0)]
    expected = {Setting("glu", "pairs", threshold, rule, "same_token") for rule, threshold in wanted}
    assert set(file.settings) == expected | {Setting("glu", "per_token", 0.3, "topk", "same_token")}
    full = [[entries_of(np.array(own, float), "pairs") for own in made_up_scores.token_scores(n)] for n in names]
    for setting in expected:
        found = by_layer(file.sets(*setting))
        lacking = 0
        for own, layers in zip(found, full, strict=True):
            definition = by_definition(layers, setting.rule, setting.threshold)
            assert all(a <= b for a, b in zip(own, definition, strict=True))
            lacking += sum(a != b for a, b in zip(own, definition, strict=True))
        # 5 entries of a layer are stored: ever enough for topk and for K = 3.
        assert lacking <= file.incomplete[setting]
        assert (file.incomplete[setting] > 0) == (setting[2:4] in ((0.5, "top_score"), (1.0, "global_topk")))
    said = [record.getMessage() for record in caplog.records if record.name == "moemui.key_neurons.selection"]
    assert [line.split(":")[0] for line in said] == [
        "glu/pairs/0.5/top_score/same_token",
        "glu/pairs/1/global_topk/same_token",
    ]
    assert f"in {file.incomplete[Setting('glu', 'pairs', 0.5, 'top_score', 'same_token')]} of 40 cells" in said[0]


def test_undefined_cells_are_counted_in_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(
        made_up_scores, "token_scores", lambda name, geometry: [-np.ones((2, m.neurons)) for m in geometry.layers]
    )
    where, _ = made_up(tmp_path, selections=("pairs",))
    select_key_neurons(**where, **ABOUT, top_score=[0.5])
    (said,) = [record.getMessage() for record in caplog.records if record.name == "moemui.key_neurons.selection"]
    assert said.startswith("glu/pairs/0.5/top_score: the highest score is not positive in 40 of 40 cells")
    file = key_neurons.read(where["path"])
    assert len(file.sets("glu", "pairs", 0.5, "top_score").neurons) == 0
    assert file.incomplete[Setting("glu", "pairs", 0.5, "top_score")] == 0
    assert file.undefined == {Setting("glu", "pairs", 0.3): 0, Setting("glu", "pairs", 0.5, "top_score"): 40}


def test_only_what_is_wanted_of_a_store_is_selected(tmp_path):
    where, _ = made_up(tmp_path, formulations=("glu", "activation"), selections=("pairs", "per_token"))
    select_key_neurons(**where, **ABOUT, top_score=[0.5], formulations=["glu"], selections=["pairs"])
    assert key_neurons.read(where["path"]).settings == (
        Setting("glu", "pairs", 0.3),
        Setting("glu", "pairs", 0.5, "top_score"),
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"formulations": ["projection"]}, "formulation 'projection' is not stored; stored: activation, glu"),
        ({"selections": ["neurons"]}, "selection 'neurons' is not stored; stored: pairs, per_token"),
        (
            {"selections": ["per_token"], "global_topk": [0.1]},
            "rule global_topk chooses by score, but the selections per_token have none stored; add one of pairs, neu",
        ),
    ],
)
def test_what_is_not_stored_is_refused_by_name(tmp_path, change, text):
    where, _ = made_up(tmp_path, formulations=("glu", "activation"), selections=("pairs", "per_token"))
    with pytest.raises(ValueError, match=text):
        select_key_neurons(**where, **ABOUT, **change)
    assert not where["path"].exists()


# Sample 0: layer 0 holds neuron 5 at rank 0, neurons 1 and 3 at rank 1; layer 2 holds neuron 9 at rank 2. Sample 1:
# nothing. Sample 2: layer 2 holds neuron 0 at rank 0.
PER_TOKEN = {
    "neuron": np.array([5, 1, 3, 9, 0], dtype=np.int32),
    "rank": np.array([0, 1, 1, 2, 0], dtype=np.int32),
    "counts": np.array([[3, 1], [0, 0], [0, 1]], dtype=np.int32),
    "geometry": GEOMETRY,
    "largest": 0.3,
}


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.35, [[1, 3, 5, 17], [], [8]]),  # above the stored one, but with the same k
        (0.3, [[1, 3, 5, 17], [], [8]]),  # k = 2 and 3
        (0.25, [[1, 3, 5], [], [8]]),  # k = 2 and 2
        (0.2, [[5], [], [8]]),  # k = 1 and 2
        (0.001, [[5], [], [8]]),  # k = 1 and 1
    ],
)
def test_per_token_by_hand(threshold, expected):
    sets = select_per_token(**PER_TOKEN, threshold=threshold)
    assert as_lists(sets) == expected
    assert (sets.neurons.dtype, sets.indptr.dtype) == (np.int32, np.int64)


def test_per_token_without_samples():
    nothing = {**PER_TOKEN, "neuron": np.empty(0, int), "rank": np.empty(0, int), "counts": np.empty((0, 2), int)}
    assert select_per_token(**nothing, threshold=0.3).n_samples == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"threshold": 0.4}, r"threshold 0\.4 is above 0\.3, the largest stored; choose a smaller one, or add"),
        ({"largest": 0.2}, r"threshold 0\.25 is above 0\.2"),  # one layer's k is the same, the other's is not
        ({"rank": np.array([0, 1, 1, 2])}, r"5 neurons, 4 ranks and counts of 5 in shape \(3, 2\) do not belong"),
        ({"counts": np.array([[3, 1, 1]])}, r"counts must be \(samples, 2 layers\)"),
        ({"neuron": np.array([5, 1, 8, 9, 0])}, "entry 2 holds neuron 8 at rank 1, but its layer 0 has 8 neurons"),
        ({"neuron": np.array([5, 1, 3, 9, -1])}, "entry 4 holds neuron -1 at rank 0, but its layer 2 has 10 neurons"),
        ({"rank": np.array([0, -1, 1, 2, 0])}, "entry 1 holds neuron 1 at rank -1, .*; the store is damaged, extract"),
    ],
)
def test_select_per_token_refuses(change, text):
    with pytest.raises(ValueError, match=text):
        select_per_token(**{**PER_TOKEN, "threshold": 0.25, **change})
