"""The authors' formulas in plain numpy and float64, written from papers and published code.

Each takes deltas (k, rows, columns) and what else the method knows, and returns the merged delta.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from deltakit.rng import Draws

Array = np.ndarray
Reference = Callable[[Array, dict[str, Any]], Array]


def draws(known: dict[str, Any], shape: tuple[int, ...], density: Any) -> Array:
    """Masks as the counter-based generator gives them: the one thing taken from deltakit."""
    count = int(np.prod(shape[1:]))
    each = np.broadcast_to(density, shape).reshape(shape[0], count)
    rows = [
        Draws(known["seed"], task, known["name"]).keep_each(0, row)
        for task, row in zip(known["tasks"], each, strict=True)
    ]
    return np.stack(rows).reshape(shape)


def top(values: Array, density: float) -> Array:
    """Which entries are the largest, by a sort."""
    flat = values.reshape(-1)
    kept = np.zeros(flat.shape, bool)
    kept[np.argsort(-flat, kind="stable")[: max(1, round(density * flat.size))]] = True
    return kept.reshape(values.shape)


def each_top(d: Array, density: float) -> Array:
    return np.stack([x * top(np.abs(x), density) for x in d])


def elect(d: Array) -> Array:
    """TIES: sign of the sum, mean of those that agree."""
    agree = np.sign(d) == np.sign(d.sum(0))
    agree &= d != 0
    return (d * agree).sum(0) / np.maximum(agree.sum(0), 1)


def rank_densities(d: Array, q: float, eps: float) -> Array:
    ranks = np.abs(d).argsort(-1, kind="stable").argsort(-1, kind="stable")
    return q - eps + 2 * eps * ranks / (d.shape[-1] - 1)


def outliers(d: Array, q: float = 0.9, gamma: float = 0.01) -> Array:
    order = np.abs(d).reshape(len(d), -1).argsort(-1, kind="stable")
    n = order.shape[1]
    high = n - int(gamma * n)
    kept = np.zeros(order.shape, bool)
    np.put_along_axis(kept, order[:, high - round(q * n) : high], True, axis=1)
    return d * kept.reshape(d.shape)


def angle(a: Array, b: Array) -> float:
    cosine = float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    return float(np.arccos(np.clip(cosine, -1, 1)))


def arc(a: Array, b: Array, t: float) -> Array:
    w = angle(a, b)
    return (np.sin((1 - t) * w) * a + np.sin(t * w) * b) / np.sin(w)


def sphere_mean(x: Array, steps: int) -> Array:
    """Step by step in the full space, where deltakit works with inner products."""
    norms = np.linalg.norm(x.reshape(len(x), -1), axis=1)
    u = x / norms[:, None, None]
    m = u.mean(0)
    m /= np.linalg.norm(m)
    for _ in range(steps):
        logs = []
        for v in u:
            a = angle(v, m)
            logs.append(a / np.sin(a) * (v - np.cos(a) * m))
        step = np.mean(logs, axis=0)
        length = np.linalg.norm(step)
        if length < 1e-13:
            break
        m = np.cos(length) * m + np.sin(length) * step / length
    return m * norms.mean()


def nm(d: Array) -> Array:
    """CABS, group by group and entry by entry."""
    out = np.zeros_like(d)
    for row in range(d.shape[1]):
        for start in range(0, d.shape[2], 4):
            free = list(range(start, min(start + 4, d.shape[2])))
            for x, kept in zip(d, out, strict=True):
                for at in sorted(free, key=lambda j, x=x: -abs(x[row, j]))[:2]:
                    kept[row, at] = x[row, at]
                    free.remove(at)
    return out


def model_stock(d: Array) -> Array:
    flat = d.reshape(len(d), -1)
    k = len(d)
    c = np.mean([np.cos(angle(flat[i], flat[j])) for i in range(k) for j in range(i)])
    return d.mean(0) * np.clip(k * c / (1 + (k - 1) * c), 0, 1)


def magmax(d: Array) -> Array:
    at = np.abs(d).argmax(0)
    return np.take_along_axis(d, at[None], 0)[0]


def emr(d: Array) -> Array:
    sign = np.sign(d.sum(0))
    return sign * np.where(d * sign > 0, np.abs(d), 0).max(0)


def consensus(d: Array) -> Array:
    merged = d.sum(0)
    return merged * ((np.abs(d) > 0.4 * np.abs(merged - d)).sum(0) >= 2)


def sce(d: Array) -> Array:
    weights = (d**2).mean((1, 2))
    agree = np.sign(d) == np.sign(d.sum(0))
    shares = weights[:, None, None] * agree
    return (d * shares).sum(0) / shares.sum(0)


def pcb(d: Array, r: float = 0.1) -> Array:
    """As published, without its clamp of the outermost 0.01 % of the magnitudes."""
    flat = d.reshape(len(d), -1)
    size = np.abs(flat)
    low, high = size.min(1, keepdims=True), size.max(1, keepdims=True)
    score = np.exp(len(d) * ((size - low) / (high - low)) ** 2) * np.tanh(flat * flat.sum(0))
    shares = []
    for row in score:
        limit = np.sort(row)[-max(1, round(r * row.size))]
        shares.append((np.maximum(row, limit) - limit) / (row.max() - limit))
    b = np.stack(shares)
    return ((flat * b).sum(0) / np.maximum(b.sum(0), 1e-12)).reshape(d.shape[1:])


def polar(x: Array) -> Array:
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh


def tsv(d: Array) -> Array:
    r = min(d.shape[1:]) // len(d)
    parts = [np.linalg.svd(x, full_matrices=False) for x in d]
    u = polar(np.concatenate([u[:, :r] for u, _, _ in parts], 1))
    vh = polar(np.concatenate([vh[:r] for _, _, vh in parts], 0))
    return u @ np.diag(np.concatenate([s[:r] for _, s, _ in parts])) @ vh


def iso_c(d: Array) -> Array:
    return polar(d.sum(0)) * np.linalg.svd(d.sum(0), compute_uv=False).mean()


def iso_cts(d: Array) -> Array:
    u, s, vh = np.linalg.svd(d.sum(0), full_matrices=False)
    each = round((len(s) - int(0.8 * len(s))) / len(d))
    r = len(s) - each * len(d)
    us, ss, vs = [u[:, :r]], [s[:r]], [vh[:r]]
    for x in d:
        a, b, c = np.linalg.svd(x - u[:, :r] @ u[:, :r].T @ x, full_matrices=False)
        us.append(a[:, :each])
        ss.append(b[:each])
        vs.append(c[:each])
    return polar(np.concatenate(us, 1)) @ polar(np.concatenate(vs, 0)) * np.concatenate(ss).mean()


def star(d: Array) -> Array:
    out = []
    for x in d:
        u, s, vh = np.linalg.svd(x, full_matrices=False)
        r = int(np.argmax(np.cumsum(s) / s.sum() >= 0.4)) + 1
        out.append(u[:, :r] @ np.diag(s[:r] * s.sum() / s[:r].sum()) @ vh[:r])
    return np.mean(out, axis=0)


def wudi(d: Array) -> Array:
    c = [x.T @ x / (x**2).sum() for x in d]
    return sum(x @ y for x, y in zip(d, c, strict=True)) @ np.linalg.pinv(sum(c))


def opcm(d: Array) -> Array:
    """With full bases, where deltakit subtracts what the thin ones span."""
    merged = d[0]
    for x in d[1:]:
        u, s, vh = np.linalg.svd(merged)
        split = int(np.argmax(np.cumsum(s) / s.sum() > 0.5))
        seen = u.T @ x @ vh.T
        np.fill_diagonal(seen, 0)
        seen[:split, :split] = 0
        merged = merged + u @ seen @ vh
    return merged / np.linalg.norm(merged) * np.mean([np.linalg.norm(x) for x in d])


def knots(d: Array) -> Array:
    u, s, vh = np.linalg.svd(np.concatenate(list(d), 1), full_matrices=False)
    parts = np.stack(np.split(vh, len(d), axis=1))
    return u @ np.diag(s) @ elect(each_top(parts, 0.2))


def core_space(d: Array) -> Array:
    u = np.linalg.svd(np.concatenate(list(d), 1), full_matrices=False)[0]
    vh = np.linalg.svd(np.concatenate(list(d), 0), full_matrices=False)[2]
    return u @ elect(each_top(np.stack([u.T @ x @ vh.T for x in d]), 0.2)) @ vh


def softmax_share(d: Array, f: Array) -> Array:
    return (d * f / f.sum(0)).sum(0)


def ewc(d: Array, f: Array) -> Array:
    merged, before = d[0], f[0]
    for x, now in zip(d[1:], f[1:], strict=True):
        merged = (now * x + before * merged) / (now + before)
        before = now + before
    return merged


def regmean(d: Array, grams: Array) -> Array:
    kept = [g * 0.9 + 0.1 * np.diag(np.diag(g)) for g in grams.astype(np.float64)]
    return sum(x @ g for x, g in zip(d, kept, strict=True)) @ np.linalg.inv(sum(kept))


def della(d: Array, known: dict[str, Any]) -> Array:
    q = rank_densities(d, 0.5, 0.15)
    return np.where(draws(known, d.shape, q), d / q, 0)


def sparse_mean(d: Array) -> Array:
    return d.sum(0) / np.maximum((d != 0).sum(0), 1)


REFERENCES: dict[str, Reference] = {
    "average": lambda d, _: d.mean(0),
    "task_arithmetic": lambda d, _: d.sum(0),
    "breadcrumbs": lambda d, _: outliers(d).sum(0),
    "breadcrumbs_ties": lambda d, _: elect(outliers(d)),
    "cabs": lambda d, _: nm(d).sum(0),
    "consensus": lambda d, _: consensus(d),
    "core_space": lambda d, _: core_space(d),
    "dare": lambda d, known: (d * draws(known, d.shape, 0.1) / 0.1).sum(0),
    "dare_ties": lambda d, known: elect(d * draws(known, d.shape, 0.1) / 0.1),
    "della": lambda d, known: della(d, known).sum(0),
    "della_ties": lambda d, known: elect(della(d, known)),
    "emr": lambda d, _: emr(d),
    "ewc": lambda d, known: ewc(d, known["scores"]),
    "fisher": lambda d, known: softmax_share(d, known["scores"] + 1e-6),
    "importance_weighted": lambda d, known: softmax_share(d, known["scores"]),
    "iso_c": lambda d, _: iso_c(d),
    "iso_cts": lambda d, _: iso_cts(d),
    "karcher": lambda d, known: sphere_mean(known["base"] + d, 500) - known["base"],
    "knots": lambda d, _: knots(d),
    "localize_stitch": lambda d, _: sparse_mean(each_top(d, 0.05)),
    "magmax": lambda d, _: magmax(d),
    "model_stock": lambda d, _: model_stock(d),
    "multislerp": lambda d, _: sphere_mean(d, 1),
    "nuslerp": lambda d, _: arc(d[0], d[1], 0.5),
    "opcm": lambda d, _: opcm(d),
    "pcb": lambda d, _: pcb(d),
    "ram": lambda d, _: sparse_mean(d),
    "regmean": lambda d, known: regmean(d, known["grams"]),
    "sce": lambda d, _: sce(d),
    "slerp": lambda d, k: arc(k["base"] + d[0], k["base"] + d[1], 0.5) - k["base"],
    "sotu": lambda d, known: (d * draws(known, d.shape, 1 / len(d))).sum(0),
    "star": lambda d, _: star(d),
    "ties": lambda d, _: elect(each_top(d, 0.2)),
    "tsv": lambda d, _: tsv(d),
    "wudi": lambda d, _: wudi(d),
}
