"""The network and its losses once more, slowly: plain Python numbers and loops, one spot at a time.

Written from the equations alone, to be compared with the tensors' way; and small graphs to do
so on. A vector is a list of numbers, a table of neighbours a list of lists of rows.
"""

import math

import torch
from torch import nn

from spahgc.model.network import GraphTensors, NetworkConfig, SpaHGC, graph_tensors

TINY = NetworkConfig(embedding_size=5, n_genes=4, hidden_size=8, n_layers=3, n_heads=2)


def random_graph(seed=0, *, n_targets=7, n_references=9, config=TINY) -> GraphTensors:
    """Build a graph with every awkward case in it.

    Target 0 has no near spot, target 1 no reference, target 2 a single one; reference 0 serves
    all other targets; the last reference serves none and has no close spot.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def table(n_rows, n_places, n_senders):
        drawn = [torch.randperm(n_senders, generator=generator)[:n_places] for _ in range(n_rows)]
        return torch.stack(drawn)

    near = table(n_targets, 3, n_targets)
    near[0], near[3, 1] = -1, -1
    refer = 1 + table(n_targets, 4, n_references - 2)
    refer[:, 2] = 0
    refer[1], refer[2, :2], refer[2, 3], refer[4, 0] = -1, -1, -1, -1
    close = table(n_references, 2, n_references)
    close[-1], close[1, 0] = -1, -1
    return graph_tensors(
        target_TD=normal(n_targets, config.embedding_size),
        reference_RD=normal(n_references, config.embedding_size),
        expression_RG=normal(n_references, config.n_genes).abs(),
        near_TQ=near,
        refer_TK=refer,
        close_RC=close,
    )


def random_network(seed=0, *, config=TINY) -> SpaHGC:
    """Build a network in float64 whose every parameter, biases too, is far from zero and one."""
    generator = torch.Generator().manual_seed(seed)
    network = SpaHGC(config).double()
    with torch.no_grad():
        for parameter in network.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.copy_(0.5 * drawn)
    return network


def predict(network: SpaHGC, graph: GraphTensors):
    """Return expression, target features and reference features as lists."""
    encoder, refer = network.encoder, senders(graph.refer_TK, graph.refer_mask_TK)
    target, reference = encode(encoder, graph, network.config)
    pooled = pool(network.pooling, target, reference, refer, network.config)
    return [linear(network.head, spot) for spot in pooled], target, reference


def encode(encoder: nn.Module, graph: GraphTensors, config: NetworkConfig):
    """Return target and reference features after the last layer."""
    near = senders(graph.near_TQ, graph.near_mask_TQ)
    refer = senders(graph.refer_TK, graph.refer_mask_TK)
    close = senders(graph.close_RC, graph.close_mask_RC)
    y = graph.expression_RG.tolist()
    joint = [z_r + y_r for z_r, y_r in zip(graph.reference_RD.tolist(), y, strict=True)]
    target = [
        block(encoder.input, linear(encoder.input.target, z), config)
        for z in graph.target_TD.tolist()
    ]
    reference = [block(encoder.input, linear(encoder.input.reference, zy), config) for zy in joint]
    token = [linear(encoder.input.expression, y_r) for y_r in y]
    for layer in encoder.layers:
        target, reference, token = step(
            layer, target, reference, token, (near, refer, close), config
        )
    return target, reference


def step(layer, target, reference, token, tables, config):
    """Return target, reference and token after one layer and its LeakyReLU."""
    near, refer, close = tables
    told = [h + norm(layer.norm, e) for h, e in zip(reference, token, strict=True)]
    next_target, next_reference = [], []
    for t in range(len(target)):
        from_near = sage(layer.near, target, t, near[t])
        from_refer = forward_attention(layer.to_target, target[t], told, refer[t], config)
        next_target.append(leaky(mean_of([from_near, from_refer]), config.slope))
    for r in range(len(reference)):
        users = [t for t in range(len(target)) for sender in refer[t] if sender == r]
        from_close = sage(layer.close, reference, r, close[r])
        from_users = backward_attention(layer.to_reference, told[r], target, users, config)
        next_reference.append(leaky(mean_of([from_close, from_users]), config.slope))
    return next_target, next_reference, [leaky(e, config.slope) for e in token]


def sage(module, nodes, itself, neighbours):
    """Return what GraphSAGE's mean makes of one node."""
    mean = mean_of([nodes[n] for n in neighbours]) if neighbours else [0.0] * len(nodes[0])
    return add(linear(module.neighbours, mean), linear(module.itself, nodes[itself]))


def forward_attention(module, target_t, told, references, config):
    """Return what one target hears from its references."""
    query = linear(module.query, target_t)
    keys = [linear(module.key, told[r]) for r in references]
    values = [linear(module.value, told[r]) for r in references]
    return linear(module.output, attend(query, keys, values, config))


def backward_attention(module, told_r, target, users, config):
    """Return what one reference hears from the targets that use it."""
    query = linear(module.query, told_r)
    keys = [linear(module.key, target[t]) for t in users]
    values = [linear(module.value, target[t]) for t in users]
    return linear(module.output, attend(query, keys, values, config))


def pool(module, target, reference, refer, config):
    """Return the targets after attention pooling."""
    pooled = []
    for t, own in enumerate(target):
        mapped = linear(module.target, own)
        keys = [linear(module.key, reference[r]) for r in refer[t]]
        values = [linear(module.value, reference[r]) for r in refer[t]]
        pooled.append(add(mapped, attend(linear(module.query, mapped), keys, values, config)))
    return pooled


def attend(query, keys, values, config):
    """Return the weighted sum of the values, head by head; zero where there are none."""
    width = len(query) // config.n_heads
    result = []
    for head in range(config.n_heads):
        part = slice(head * width, (head + 1) * width)
        scores = [
            leaky([dot(query[part], key[part]) / math.sqrt(width)], config.slope)[0] for key in keys
        ]
        powers = [math.exp(score) for score in scores]
        weights = [power / sum(powers) for power in powers]
        for place in range(part.start, part.stop):
            result += [sum(w * v[place] for w, v in zip(weights, values, strict=True))]
    return result


def expression_loss(predicted, measured):
    """Return MSE + 0.5 (1 - mean PCC)."""
    n_spots, n_genes = len(predicted), len(predicted[0])
    squares = [
        (predicted[t][g] - measured[t][g]) ** 2 for t in range(n_spots) for g in range(n_genes)
    ]
    correlations = [
        pearson([row[g] for row in predicted], [row[g] for row in measured]) for g in range(n_genes)
    ]
    return sum(squares) / len(squares) + 0.5 * (1 - sum(correlations) / n_genes)


def pearson(a, b):
    """Return the correlation of two lists, 0 where one is constant."""
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    products = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    squares_a = sum((x - mean_a) ** 2 for x in a)
    squares_b = sum((y - mean_b) ** 2 for y in b)
    return products / math.sqrt(squares_a * squares_b) if squares_a * squares_b else 0.0


def contrast(online, target):
    """Return the mean of 2 - 2 cos."""
    terms = [
        2 - 2 * dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))
        for a, b in zip(online, target, strict=True)
    ]
    return sum(terms) / len(terms)


def senders(table, mask):
    """Return the rows that exist, receiver by receiver."""
    return [
        [sender for sender, exists in zip(row, there, strict=True) if exists]
        for row, there in zip(table.tolist(), mask.tolist(), strict=True)
    ]


def block(module, x, config):
    """Return LeakyReLU, linear, LayerNorm, LeakyReLU of one vector."""
    _, _, hidden, layer_norm, _ = module.block
    return leaky(norm(layer_norm, linear(hidden, leaky(x, config.slope))), config.slope)


def linear(module, x):
    """Return W x + b."""
    bias = [0.0] * module.out_features if module.bias is None else module.bias.tolist()
    return [dot(row, x) + b for row, b in zip(module.weight.tolist(), bias, strict=True)]


def norm(module, x):
    """Return the vector with mean 0 and variance 1, scaled and shifted."""
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return [
        scale * (value - mean) / math.sqrt(variance + 1e-5) + shift
        for value, scale, shift in zip(x, module.weight.tolist(), module.bias.tolist(), strict=True)
    ]


def leaky(x, slope):
    """Return the vector with its negative values shrunk."""
    return [value if value >= 0 else slope * value for value in x]


def mean_of(vectors):
    """Return the mean of some vectors."""
    return [sum(values) / len(vectors) for values in zip(*vectors, strict=True)]


def add(a, b):
    """Return the sum of two vectors."""
    return [x + y for x, y in zip(a, b, strict=True)]


def dot(a, b):
    """Return the product of two vectors."""
    return sum(x * y for x, y in zip(a, b, strict=True))
