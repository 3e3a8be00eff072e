"""The graph beside one built slowly, pair by pair, from the definition of its edges."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from spahgc.errors import MismatchError
from spahgc.index import Neighbors, ReferenceIndex
from spahgc.model.graph import GraphConfig, build_graph, edges_of, table_of, tensors_of
from spahgc.model.spots import SlideSpots, nearest_others
from spahgc.schema import CLOSE, NEAR, REFER, REFERENCE, TARGET


def draw_spots(name, n_spots, *, seed=0, n_pool=None, measured=True, near=6):
    """Draw a slide; with ``n_pool``, looks, expression and places repeat."""
    generator = np.random.default_rng([seed, *name.encode()])
    rows = np.arange(n_spots) if n_pool is None else generator.integers(0, n_pool, n_spots)
    centers_S2 = generator.integers(0, 9, (n_spots, 2))[rows] * 50.0
    centers_S2[0] = (1e6, -1e6)  # far from all others
    expression_SG = generator.gamma(1, size=(n_spots, 3)).astype(np.float32)[rows]
    return SlideSpots(
        name=name,
        spot_names=tuple(f"{name}-{n}" for n in range(n_spots)),
        embedding_SD=generator.normal(size=(n_spots, 5)).astype(np.float32)[rows],
        centers_S2=centers_S2,
        near_SQ=nearest_others(centers_S2, near),
        expression_SG=expression_SG if measured else None,
    )


def find(target, references, k):
    index = ReferenceIndex.of_vectors({n: spots.embedding_SD for n, spots in references.items()})
    return index.search(target.embedding_SD, k=k, only_slides=references, asked_by=target.name)


def distance(first, second):
    return math.dist([float(x) for x in first], [float(x) for x in second])


def cosine(first, second):
    first, second = [float(x) for x in first], [float(x) for x in second]
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    return dot / math.hypot(*first) / math.hypot(*second)


def naive_refer(target, references, k):
    """List for each target its k most similar (slide, spot), the first of equals first."""
    chosen = []
    for own in target.embedding_SD:
        ranked = sorted(
            (-round(cosine(own, other), 8), name, spot)
            for name, slide in references.items()
            for spot, other in enumerate(slide.embedding_SD)
        )
        chosen.append([(name, spot) for _, name, spot in ranked[:k]])
    return chosen


def naive_nearest(points, n_nearest):
    """List for each point the distances to its nearest others."""
    return [
        sorted(distance(point, other) for m, other in enumerate(points) if m != n)[:n_nearest]
        for n, point in enumerate(points)
    ]


def received(graph, edge_type, n_receivers):
    """List who sends to each receiver."""
    senders = [[] for _ in range(n_receivers)]
    for sender, receiver in graph[edge_type].edge_index.T.tolist():
        senders[receiver].append(sender)
    return senders


def assert_nearest(senders, points, n_nearest):
    for receiver, (own, expected) in enumerate(
        zip(senders, naive_nearest(points, n_nearest), strict=True)
    ):
        assert receiver not in own
        assert len(set(own)) == len(own)
        found = [distance(points[receiver], points[sender]) for sender in own]
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)  # as near, whichever of equals


CASES = [
    pytest.param(20, {"B": 15, "C": 9}, 7, None, id="all differ"),
    pytest.param(20, {"B": 15, "C": 9}, 7, 4, id="looks and places repeat"),
    pytest.param(3, {"B": 2, "C": 2}, 7, None, id="fewer spots than neighbours"),
    pytest.param(1, {"B": 1}, 7, None, id="one spot each"),
    pytest.param(9, {"B": 30}, 1, None, id="one reference a spot"),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n_targets", "sizes", "k", "n_pool"), CASES)
def test_edges_are_those_of_the_definition(n_targets, sizes, k, n_pool, seed):
    target = draw_spots("A", n_targets, seed=seed, n_pool=n_pool)
    references = {n: draw_spots(n, size, seed=seed, n_pool=n_pool) for n, size in sizes.items()}
    config = GraphConfig(n_refer=k)
    graph = build_graph(target, find(target, references, k), references, config=config)
    assert graph.validate(raise_on_error=True)

    nodes = [
        (graph.reference_slides[slide], spot)
        for slide, spot in zip(graph[REFERENCE].slide, graph[REFERENCE].spot.tolist(), strict=True)
    ]
    assert nodes == sorted(set(nodes))
    embedding = [references[name].embedding_SD[spot] for name, spot in nodes]
    expression = [references[name].expression_SG[spot] for name, spot in nodes]
    assert np.array_equal(graph[REFERENCE].x.numpy(), np.array(embedding))
    assert np.array_equal(graph[REFERENCE].y.numpy(), np.array(expression))
    assert np.array_equal(graph[TARGET].x.numpy(), target.embedding_SD)
    assert np.array_equal(graph[TARGET].y.numpy(), target.expression_SG)

    refer = received(graph, REFER, n_targets)
    for own, senders, chosen in zip(
        target.embedding_SD, refer, naive_refer(target, references, k), strict=True
    ):
        assert len(set(senders)) == len(senders)
        if n_pool is None:
            assert [nodes[sender] for sender in senders] == chosen
        found = [cosine(own, embedding[sender]) for sender in senders]
        expected = [cosine(own, references[name].embedding_SD[spot]) for name, spot in chosen]
        assert found == pytest.approx(expected, abs=1e-6)  # as alike, whichever of equals
    assert_nearest(received(graph, NEAR, n_targets), target.centers_S2, 6)
    joint = [[*z, *y] for z, y in zip(embedding, expression, strict=True)]
    assert_nearest(received(graph, CLOSE, len(nodes)), joint, config.n_close)


@pytest.mark.parametrize(("n_targets", "sizes", "k", "n_pool"), CASES)
def test_the_network_reads_the_same_edges_as_a_table(n_targets, sizes, k, n_pool):
    target = draw_spots("A", n_targets, n_pool=n_pool)
    references = {name: draw_spots(name, size, n_pool=n_pool) for name, size in sizes.items()}
    graph = build_graph(
        target, find(target, references, k), references, config=GraphConfig(n_refer=k)
    )
    tensors = tensors_of(graph)
    for table, exists, edge_type in [
        (tensors.near_TQ, tensors.near_mask_TQ, NEAR),
        (tensors.refer_TK, tensors.refer_mask_TK, REFER),
        (tensors.close_RC, tensors.close_mask_RC, CLOSE),
    ]:
        senders = received(graph, edge_type, len(table))
        assert [row[own].tolist() for row, own in zip(table, exists, strict=True)] == senders


def test_edges_in_any_order_make_the_same_table():
    edge_index = torch.tensor([[2, 0, 1, 0, 4], [0, 2, 2, 4, 2]])
    expected = [[2, -1, -1], [-1, -1, -1], [0, 1, 4], [-1, -1, -1], [0, -1, -1], [-1, -1, -1]]
    assert table_of(edge_index, 6).tolist() == expected
    assert edges_of(table_of(edge_index, 6)).tolist() == [[2, 0, 1, 4, 0], [0, 2, 2, 2, 4]]
    later = edge_index[:, [3, 0, 1, 2, 4]]
    assert torch.equal(table_of(later, 6), table_of(edge_index, 6))
    assert table_of(edge_index[:, :0], 3).shape == (3, 0)
    assert table_of(edge_index[:, :0], 0).shape == (0, 0)


def test_nodes_and_edges_say_where_they_lie_and_how_alike_they_are():
    target = replace(draw_spots("A", 20), microns_per_pixel=0.5)
    references = {
        name: replace(draw_spots(name, 9), microns_per_pixel=scale, spot_names=tuple("abcdefghi"))
        for name, scale in [("B", 2.0), ("C", None)]
    }
    graph = build_graph(target, find(target, references, 7), references, config=GraphConfig())
    assert graph.slide == "A"
    assert graph.reference_slides == ["B", "C"]
    assert graph[TARGET].spot_names == list(target.spot_names)
    np.testing.assert_allclose(graph[TARGET].pos, target.centers_S2 * 0.5)
    sender, receiver = graph[NEAR].edge_index
    far = (graph[TARGET].pos[sender] - graph[TARGET].pos[receiver]).norm(dim=1)
    torch.testing.assert_close(graph[NEAR].edge_attr[:, 0], far)
    sender, receiver = graph[REFER].edge_index
    own, other = graph[TARGET].x[receiver], graph[REFERENCE].x[sender]
    alike = torch.cosine_similarity(own, other, dim=1)
    torch.testing.assert_close(graph[REFER].edge_attr[:, 0], alike, rtol=0, atol=1e-6)
    sender, receiver = graph[CLOSE].edge_index
    joint = torch.cat([graph[REFERENCE].x, graph[REFERENCE].y], dim=1)
    far = (joint[sender] - joint[receiver]).norm(dim=1)
    torch.testing.assert_close(graph[CLOSE].edge_attr[:, 0], far)
    for node in range(graph[REFERENCE].num_nodes):
        slide = graph.reference_slides[graph[REFERENCE].slide[node]]
        row = int(graph[REFERENCE].spot[node])
        assert graph[REFERENCE].spot_names[node] == "abcdefghi"[row]
        assert np.array_equal(graph[REFERENCE].x[node], references[slide].embedding_SD[row])
        place = references[slide].centers_S2[row] * (references[slide].microns_per_pixel or np.nan)
        np.testing.assert_allclose(graph[REFERENCE].pos[node], place)


def test_a_reference_that_many_use_is_one_node():
    target = draw_spots("A", 12)
    references = {"B": draw_spots("B", 2), "C": draw_spots("C", 1)}
    graph = build_graph(target, find(target, references, 7), references, config=GraphConfig())
    assert graph[REFERENCE].num_nodes == 3
    assert graph[REFER].num_edges == 12 * 3


def test_slides_nobody_borrows_from_add_no_node():
    target, near = draw_spots("A", 5), draw_spots("B", 9)
    far = draw_spots("C", 9)
    object.__setattr__(near, "embedding_SD", np.tile(target.embedding_SD, (2, 1))[:9])
    object.__setattr__(far, "embedding_SD", -np.tile(target.embedding_SD.mean(axis=0), (9, 1)))
    references = {"B": near, "C": far}
    graph = build_graph(target, find(target, references, 1), references, config=GraphConfig())
    assert np.array_equal(graph[REFERENCE].x.numpy(), near.embedding_SD[:5])


def test_a_target_may_have_no_expression():
    target, references = draw_spots("A", 5, measured=False), {"B": draw_spots("B", 9)}
    graph = build_graph(target, find(target, references, 7), references, config=GraphConfig())
    assert "y" not in graph[TARGET]
    assert tensors_of(graph).target_TD.shape == (5, 5)


def test_the_slide_itself_is_refused_as_a_reference():
    target = draw_spots("A", 5)
    references = {"A": target, "B": draw_spots("B", 9)}
    with pytest.raises(MismatchError, match="slide A cannot be a reference of itself"):
        build_graph(target, find(target, references, 7), references, config=GraphConfig())


def test_a_slide_that_answered_is_refused_as_a_target():
    target, references = draw_spots("A", 5), {"B": draw_spots("B", 9)}
    found = find(draw_spots("C", 5), {"A": draw_spots("A", 5), **references}, 7)
    with pytest.raises(MismatchError, match="slide A cannot be a reference of itself"):
        build_graph(target, found, references, config=GraphConfig())


@pytest.mark.parametrize(
    ("own", "other", "message"),
    [
        ({"fingerprint": "1"}, {"fingerprint": "2"}, "embedded in different ways"),
        ({"genes": ("G1", "G2", "G3")}, {"genes": ("G1", "G3", "G2")}, "in another order"),
    ],
    ids=["fingerprint", "genes"],
)
def test_slides_that_do_not_fit_together_are_refused(own, other, message):
    target = replace(draw_spots("A", 5), **own)
    references = {"B": replace(draw_spots("B", 9), **other)}
    with pytest.raises(MismatchError, match=message):
        build_graph(target, find(target, references, 7), references, config=GraphConfig())


def test_a_reference_without_a_gene_of_the_panel_is_refused():
    target, reference = draw_spots("A", 5), draw_spots("B", 9)
    reference.expression_SG[:, 1] = np.nan
    found = find(target, {"B": reference}, 7)
    with pytest.raises(MismatchError, match="slide B does not list every gene"):
        build_graph(target, found, {"B": reference}, config=GraphConfig())


@pytest.mark.real
def test_edges_on_real_slides_are_those_of_the_definition(real_slides):
    study = real_slides / "her2st"
    slides = {}
    for name in ("C2", "C3", "C4"):
        counts = pd.read_csv(study / f"ST-cnts/{name}.tsv.gz", sep="\t", index_col=0)
        places = np.array([[float(n) for n in spot.split("x")] for spot in counts.index])
        common = counts[["GAPDH", "ACTB", "ERBB2", "CD74", "B2M"]].to_numpy(np.float32)
        slides[name] = replace(
            draw_spots(name, len(counts)),
            embedding_SD=np.log1p(counts.to_numpy(np.float32)[:, :400]) + 0.1,
            centers_S2=places,
            near_SQ=nearest_others(places, 6),
            expression_SG=np.log1p(common),
        )
    target = slides.pop("C2")
    graph = build_graph(target, find(target, slides, 7), slides, config=GraphConfig())
    chosen = naive_refer(target, slides, 7)
    nodes = sorted({pair for pairs in chosen for pair in pairs})
    refer = received(graph, REFER, len(target.spot_names))
    assert [[nodes[sender] for sender in senders] for senders in refer] == chosen
    assert_nearest(received(graph, NEAR, len(refer)), target.centers_S2, 6)
    joint = [[*slides[n].embedding_SD[s], *slides[n].expression_SG[s]] for n, s in nodes]
    assert_nearest(received(graph, CLOSE, len(nodes)), joint, 3)


def test_a_graph_without_any_reference_is_refused():
    target = draw_spots("A", 2)
    nobody = Neighbors(
        slides=(),
        slide_SK=np.full((2, 7), -1),
        spot_SK=np.full((2, 7), -1),
        distance_SK=np.full((2, 7), np.nan),
    )
    with pytest.raises(MismatchError, match=r"no reference spot was found.*ingest more slides"):
        build_graph(target, nobody, {}, config=GraphConfig())


def test_edges_are_sorted_by_receiver_and_leave_out_what_is_missing():
    table = torch.tensor([[2, -1], [-1, -1], [0, 1]])
    assert edges_of(table).tolist() == [[2, 0, 1], [0, 2, 2]]
