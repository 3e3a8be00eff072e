"""Read the store: graphs, network, training, baselines, evaluation, prediction."""
