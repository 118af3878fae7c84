"""Diversity: order probabilities and intervals by hand and by simulation, tables of made-up tasks, what has none."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from moemui.diversity import diversity
from moemui.diversity.diversity import (
    COARSER,
    FINER,
    UNDECIDED,
    comparison,
    correlation_interval,
    level_interval,
    order_probability,
    part_effect,
    rank_correlation,
)
from moemui.diversity.domain_sets import draw, draw_pairs, split, union_sizes
from moemui.geometry import Geometry, Layer
from moemui.key_neurons.files import Samples, read, write
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting

CURVES, EXPERTS = Setting("projection", "pairs", 0.01), Setting("projection", "pairs", 0.001)
GEOMETRY = Geometry((Layer(0, 12, 0, 20, 0, 2),))


def test_order_probability_counts_a_tie_as_half():
    assert order_probability(fewer=np.array([1.0, 2, 3, 4]), more=np.array([2.0, 2, 5, 3])) == (1 + 0.5 + 1 + 0) / 4


def test_order_probability_is_mann_whitneys_over_independent_sets():
    rng = np.random.default_rng(0)
    first, second = rng.poisson(3, 20_000), rng.poisson(4, 20_000)
    u = stats.mannwhitneyu(second[:3000], first[:3000]).statistic / 3000**2
    assert order_probability(fewer=first, more=second) == pytest.approx(u, abs=0.02)


def test_level_interval_is_the_t_test():
    low, high, p = level_interval(values=np.array([0.5, 0.6, 0.7]), null=0.5)
    half = 4.302653 * 0.1 / 3**0.5  # t of 2 degrees of freedom
    assert (low, high) == pytest.approx((0.6 - half, 0.6 + half))
    assert p == pytest.approx(2 * stats.t.sf(0.1 / (0.1 / 3**0.5), 2))


def test_equal_parts_have_an_interval_without_width():
    assert level_interval(values=np.full(5, 0.5), null=0.5) == (0.5, 0.5, 1.0)
    low, high, p = level_interval(values=np.full(5, 0.75), null=0.5)
    assert (low, high) == (0.75, 0.75)
    assert np.isnan(p)


def test_comparison_by_hand():
    found = comparison(neuron=np.array([0.8, 0.9, 0.8]), other=np.array([0.6, 0.6, 0.7]))
    half = 4.302653 * 0.1 / 3**0.5
    assert list(found.values())[:3] == pytest.approx([0.2, 0.2 - half, 0.2 + half])
    assert found["verdict"] == UNDECIDED  # 0.2 ± 0.25
    assert comparison(neuron=np.array([0.8, 0.9, 0.8]), other=np.array([0.5, 0.6, 0.6]))["verdict"] == FINER
    assert comparison(neuron=np.array([0.5, 0.6, 0.6]), other=np.array([0.8, 0.9, 0.8]))["verdict"] == COARSER


def test_rank_correlation_by_hand():
    assert rank_correlation(values=np.array([[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]])) == pytest.approx(1)
    # ranks of 1 1 2 2 are 1.5 1.5 3.5 3.5, those of 1 3 2 4 themselves: cov 0.5·…, Pearson = 2 / √(4·5)
    assert rank_correlation(values=np.array([[1.0, 3.0], [2.0, 4.0]])) == pytest.approx(2 / 20**0.5)
    assert np.isnan(rank_correlation(values=np.full((3, 4), 0.2)))


def test_correlation_interval_by_hand():
    z = np.array([0.4, 0.5, 0.6])
    found = correlation_interval(estimate=np.tanh(0.5), draws=109, parts=np.tanh(z), part_draws=56)
    variance = 0.01 / 3 + 1.06 / 106 - 1.06 / 53 / 3
    freedom = 2 * (variance / (0.01 / 3)) ** 2
    half = stats.t.ppf(0.975, freedom) * variance**0.5
    assert found == pytest.approx((np.tanh(0.5 - half), np.tanh(0.5 + half)))
    assert np.isnan(correlation_interval(estimate=0.5, draws=100, parts=np.array([0.5, 1.0]), part_draws=50)).all()
    assert np.isnan(correlation_interval(estimate=np.nan, draws=100, parts=np.array([0.5, 0.4]), part_draws=50)).all()
    assert np.isnan(correlation_interval(estimate=0.5, draws=3, parts=np.array([0.5, 0.4]), part_draws=50)).all()
    low, high = correlation_interval(estimate=0.5, draws=100, parts=np.array([0.5, 0.5]), part_draws=1000)
    assert low < 0.5 < high


def test_the_direction_is_expected_or_what_the_parts_together_show():
    fewer, more = np.array([2.0, 3, 4]), np.array([1.0, 2, 5])  # one of three larger
    falls = np.stack([fewer, more], axis=1)[None]  # one step
    values = np.array([falls, falls, falls[..., ::-1]])
    found = part_effect(values=values)
    assert found.direction == -1
    assert found.resolution == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    # sets: three of one domain and three of two
    one = rank_correlation(values=np.array([fewer, more]))
    assert found.correlation == pytest.approx([one, one, -one])
    assert found.sets == 6
    assert part_effect(values=values, expected=1).resolution == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_a_constant_measure_can_not_tell():
    found = part_effect(values=np.ones((4, 2, 5, 2)))
    assert (found.direction, found.resolution.tolist()) == (0, [0.5] * 4)
    assert np.isnan(found.correlation).all()


def made_up(tmp_path, domains, seed=0, same=False):
    """Key neuron files and texts of one task a domain; a domain has 12 neurons of its own in experts of its own."""
    rng, files, texts = np.random.default_rng(seed), [], {}
    for number, (domain, n) in enumerate(domains.items()):
        start = 0 if same else 40 * number
        lists = [np.sort(start + rng.choice(40, 6, replace=False)) for _ in range(n)]
        if same:
            lists = [np.arange(6)] * n
        ends = np.arange(n + 1) * 6
        sets = KeySets(ends, np.concatenate([*lists, np.empty(0, dtype=int)]).astype(np.int32))
        write(
            tmp_path / f"{domain}.h5",
            model="m",
            checkpoint="c",
            task=f"{domain}-task",
            geometry=GEOMETRY,
            samples=Samples(
                np.array([f"{domain}/{i}" for i in range(n)]), np.array([domain] * n), np.ones(n, int), np.ones(n, int)
            ),
            sets={CURVES: sets, EXPERTS: sets},
            routed_tokens=np.zeros((1, 12), dtype=int),
        )
        files.append(read(tmp_path / f"{domain}.h5"))
        words = ["same text"] * n if same else [f"{domain} w{rng.integers(9)} {domain}" for _ in range(n)]
        texts[f"{domain}-task"] = {f"{domain}/{i}": word for i, word in enumerate(words)}
    return files, texts


def rows(files, texts, **options):
    return diversity.rows(
        **{"key_neurons": files, "texts": texts, "tokens": 1e6, "order": 3, "curve_setting": CURVES}
        | {"expert_setting": EXPERTS, "draws": 40, "seed": 5} | options
    )  # fmt: skip


def test_rows_of_three_domains_apart(tmp_path):
    described, effects = rows(*made_up(tmp_path, {"a": 72, "b": 72, "c": 72}))
    assert (set(described["n_samples"]), set(described["draws"]), set(effects["parts"])) == ({8}, {40}, {6})
    assert described.groupby(["measure", "setting"]).size().tolist() == [3] * 7
    mui = described[(described["measure"] == "mui") & (described["setting"] == CURVES.label)].set_index("n_domains")
    # 8 samples of 6 of the 40 neurons: 1 − (34/40)^8 of them, 4 and 4 samples: 1 − (34/40)^4 of each domain's
    expected = [40 * (1 - 0.85**8) / 240, 80 * (1 - 0.85**4) / 240]
    assert mui["mean"].tolist()[:2] == pytest.approx(expected, rel=0.03)
    assert (mui["low"] <= mui["mean"]).all()
    assert (mui["mean"] <= mui["high"]).all()
    effect = effects.set_index(["measure", "setting"])
    neuron = effect.loc[("mui", CURVES.label)]
    assert neuron["resolution_low"] > 0.85
    assert (neuron["direction"], neuron["verdict"], neuron["note"]) == ("rises", "", "the neuron level itself")
    assert 0.8 < neuron["spearman_low"] < neuron["spearman"] < neuron["spearman_high"] < 1
    proportion = effect.loc[("key_expert_proportion", EXPERTS.label)]
    assert (proportion["verdict"], proportion["direction"]) == (FINER, "falls")
    assert effect.loc[("compression_ratio", "")]["direction"] == "falls"
    assert effects["difference"].isna().tolist() == (effects["note"] == "the neuron level itself").tolist()


def test_rows_repeat_with_their_seed(tmp_path):
    files, texts = made_up(tmp_path, {"a": 36, "b": 36})
    first, again, other = (rows(files, texts, seed=seed) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(one, two)
    assert not first[0].equals(other[0])


def test_identical_samples_are_constant_at_every_level(tmp_path):
    described, effects = rows(*made_up(tmp_path, {"a": 30, "b": 30}, same=True))
    assert described["sd"].tolist() == [0] * len(described)
    assert effects["spearman"].isna().all()
    assert effects["resolution"].tolist() == [0.5] * len(effects)
    assert effects["note"].str.contains("the same in all draws: no correlation").all()
    compared = effects[effects["level"] != "neuron"]
    assert (set(compared["verdict"]), set(compared["difference_p"])) == ({UNDECIDED}, {1.0})


def test_a_single_domain_has_nothing_to_vary(tmp_path):
    described, effects = rows(*made_up(tmp_path, {"a": 30}))
    assert len(described) == 0
    assert set(effects["note"]) == {"a single domain (a), so nothing varies"}
    assert effects[["spearman", "resolution", "difference"]].isna().all(axis=None)


def test_a_domain_of_one_sample_is_left_out_and_said(tmp_path):
    described, effects = rows(*made_up(tmp_path, {"a": 30, "b": 1, "c": 30}))
    assert set(described["n_domains"]) == {1, 2}
    assert effects["note"].str.startswith("without the domain b: 1 sample").all()
    _, effects = rows(*made_up(tmp_path, {"a": 30, "b": 1}))
    assert set(effects["note"]) == {"without the domain b: 1 sample; a single domain (a), so nothing varies"}


def test_no_domain_of_two_samples_says_so(tmp_path):
    _, effects = rows(*made_up(tmp_path, {"a": 1, "b": 0}))
    assert set(effects["note"]) == {"without the domain a: 1 sample; no domain has two samples"}


def test_few_samples_have_a_correlation_but_no_test(tmp_path):
    described, effects = rows(*made_up(tmp_path, {"a": 6, "b": 9}))
    assert described["mean"].notna().all()
    assert set(effects["parts"]) == {0}
    assert effects[effects["measure"] == "mui"]["spearman"].notna().all()
    assert effects[["resolution", "spearman_low", "difference", "difference_p"]].isna().all(axis=None)
    assert effects["note"].str.contains("the smallest domain has 6 samples: not 4 disjoint parts").all()


def test_fewer_samples_than_domains_say_so(tmp_path):
    described, effects = rows(*made_up(tmp_path, {"a": 2, "b": 9, "c": 9}))
    assert len(described) == 0
    assert set(effects["note"]) == {"the smallest domain has 2 samples, too few for one of each of the 3 domains"}


def test_empty_key_sets_and_texts_are_measured_or_explained(tmp_path):
    files, texts = made_up(tmp_path, {"a": 30, "b": 30})
    empty = KeySets(np.zeros(31, dtype=int), np.empty(0, dtype=np.int32))

    class Empty(type(files[0])):
        def sets(self, *setting):
            return empty

    files = [Empty(**vars(file)) for file in files]
    texts = {task: dict.fromkeys(own, "") for task, own in texts.items()}
    described, effects = rows(files, texts)
    assert described[described["measure"] == "mui"]["mean"].tolist() == [0.0] * 4
    words = effects[effects["measure"] == "distinct_1"].iloc[0]
    assert words["note"] == "a set of 3 may hold no 1-gram"
    assert words[["spearman", "resolution", "difference"]].isna().all()


def test_refusals(tmp_path):
    files, texts = made_up(tmp_path, {"a": 30, "b": 30})
    with pytest.raises(ValueError, match="sets of 31 samples from 2 domains, the smallest of 30 samples"):
        rows(files, texts, samples=31)
    with pytest.raises(ValueError, match="m c b-task: no text of sample b/0"):
        rows(files, {"a-task": texts["a-task"], "b-task": {}})
    with pytest.raises(ValueError, match="found key neurons of no checkpoint"):
        rows([], {})


D, SIZE, PER_SET, PARTS, NEURONS = 3, 72, 8, 6, 120


def simulated(chances, rng):
    """The union of one half of the neurons, and of the other as a measure of unknown direction: effect and draws."""
    incidence = sparse.csr_array(np.concatenate([rng.random((SIZE, NEURONS)) < own for own in chances]).astype(int))
    halves = [incidence[:, : NEURONS // 2], incidence[:, NEURONS // 2 :]]
    pools = list(np.arange(D * SIZE).reshape(D, SIZE))
    parts = split(pools=pools, parts=PARTS, rng=rng)
    pairs = np.array([draw_pairs(pools=part, n=PER_SET, pairs=10, rng=rng) for part in parts])
    sets = draw(pools=pools, n=PER_SET, draws=20, rng=rng)
    for half, expected in zip(halves, (1, 0), strict=True):
        values = union_sizes(incidence=half, sets=pairs.reshape(-1, PER_SET)).reshape(pairs.shape[:-1])
        yield (
            part_effect(values=values, expected=expected),
            union_sizes(incidence=half, sets=sets.reshape(-1, PER_SET)).reshape(D, -1),
        )


def truths(chances):
    """What many samples say: resolution (of a rising measure) and Spearman correlation of the first half."""
    rng, size = np.random.default_rng(99), 1000
    incidence = sparse.csr_array(
        np.concatenate([rng.random((size, NEURONS // 2)) < own[: NEURONS // 2] for own in chances]).astype(int)
    )
    pools = list(np.arange(D * size).reshape(D, size))
    pairs = draw_pairs(pools=pools, n=PER_SET, pairs=3000, rng=rng)
    values = union_sizes(incidence=incidence, sets=pairs.reshape(-1, PER_SET)).reshape(pairs.shape[:-1])
    resolution = np.mean([order_probability(fewer=step[:, 0], more=step[:, 1]) for step in values])
    sets = draw(pools=pools, n=PER_SET, draws=2000, rng=rng)
    return resolution, rank_correlation(
        values=union_sizes(incidence=incidence, sets=sets.reshape(-1, PER_SET)).reshape(D, -1)
    )


def worlds(kind):
    """Chances of neurons to be key, (domains, neurons): the two halves alike in what they say of the domains."""
    rng = np.random.default_rng(7)
    base = np.tile(rng.beta(1, 8, NEURONS // 2), (D, 1))
    if kind == "domains differ":
        base = np.where(rng.random(base.shape) < 0.5, rng.beta(1, 8, base.shape), base)
    return np.concatenate([base, base], axis=1)


@pytest.mark.simulation
@pytest.mark.parametrize("kind", ["domains are identical", "domains differ"])
def test_levels_that_resolve_alike_differ_in_one_test_of_twenty(kind):
    """The nominal 95 % of intervals, of the verdict and of the correlation, whether domains differ or not."""
    chances = worlds(kind)
    resolution, spearman = truths(chances)
    assert (resolution > 0.6) == (kind == "domains differ")
    if kind == "domains are identical":
        resolution, spearman = 0.5, 0.0  # exactly, since all sets are alike
    inside = []
    for seed in range(200):
        (one, values), (two, _) = simulated(chances, np.random.default_rng(seed))
        low, high, _ = level_interval(values=one.resolution, null=0.5)
        lowest, highest = correlation_interval(
            estimate=rank_correlation(values=values), draws=values.size, parts=one.correlation, part_draws=one.sets
        )
        verdict = comparison(neuron=one.resolution, other=two.resolution)["verdict"]
        inside.append((low <= resolution <= high, lowest <= spearman <= highest, verdict == UNDECIDED))
    coverage = np.mean(inside, axis=0)
    assert ((coverage >= 0.92) & (coverage <= 0.98)).all(), coverage


def test_a_level_that_sees_more_is_found_finer_and_one_that_sees_less_coarser():
    chances = worlds("domains are identical")
    for domain in range(D):
        chances[domain, : NEURONS // 2] = np.where(np.arange(NEURONS // 2) % D == domain, 0.3, 0.0)
    for seed, (first, verdict) in itertools.product(range(3), [(0, FINER), (1, COARSER)]):
        effects = [effect for effect, _ in simulated(chances, np.random.default_rng(seed))]
        found = comparison(neuron=effects[first].resolution, other=effects[1 - first].resolution)
        assert found["verdict"] == verdict
        assert found["difference_low"] <= found["difference"] <= found["difference_high"]
