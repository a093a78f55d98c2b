"""Codes of curves are ordinary feature vectors: cluster them, or learn labels from them, however the curves were sampled.

Run with: python examples/cluster_curves.py
"""

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

import neuralfield as nf

KINDS = ("plateau", "rise", "fall")


def events(count: int, seed: int) -> nf.Curves:
    """Cylinder, bell and funnel (Saito 1994), each seen at 20 to 40 random times: an event that stays, rises or falls."""
    rng, curves = np.random.default_rng(seed), []
    kinds = rng.integers(len(KINDS), size=count)
    for kind in kinds:
        t = np.sort(rng.uniform(0, 1, rng.integers(20, 41)))
        start, end = rng.uniform(0.15, 0.3), rng.uniform(0.6, 0.85)
        shape = [np.ones_like(t), (t - start) / (end - start), (end - t) / (end - start)][kind]
        event = rng.normal(6, 1) * np.where((start < t) & (t < end), shape, 0)
        curves.append((t, event + rng.normal(0, 0.5, len(t))))
    return nf.Curves.from_list(curves, labels=kinds, over=(0.0, 1.0))


train, test = events(300, seed=0), events(100, seed=1)
run = nf.fit(train, domain="function")
print(f"fitted {len(run.ids)} curves of {train.facts()['points']['min']} to {train.facts()['points']['max']} points")

# Distances between codes are distances between whole curves, so methods that measure distances work on them as they are.
codes = run.codes.numpy()  # [300, 96]; `nf codes RUN --out codes.npz` writes them, with ids and labels
clusters = KMeans(len(KINDS), n_init=10, random_state=0).fit_predict(codes)
print(f"k-means, without labels: adjusted Rand index {adjusted_rand_score(train.labels, clusters):.2f} (1 is perfect, 0 is chance)")

# New curves: their codes by search, their labels from the nearest codes of the bank.
classifier = KNeighborsClassifier(5).fit(codes, train.labels)
found = run.infer(test).latent.mean.numpy()
print(f"nearest neighbours: {classifier.score(found, test.labels):.0%} of {len(test)} new curves have the right label")
