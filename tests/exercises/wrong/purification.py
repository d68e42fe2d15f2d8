"""Wrong answers to the exercises of `09_data_purification`, and a part of what each must be told."""

import torch

WRONG = {
    "keeps": [
        (lambda q, r, limit, known: (q <= limit) | (r.amax(0) >= known), "both must hold"),
        (lambda q, r, limit, known: (q >= limit) & (r.amax(0) >= known), "It keeps the imbalanced samples"),
        (lambda q, r, limit, known: (1 - q <= limit) & (r.amax(0) >= 0), "It keeps the imbalanced samples"),
        (lambda q, r, limit, known: (r.amax(0) - r.amin(0) <= limit) & (r.amax(0) >= known), "not the gap"),
        (lambda q, r, limit, known: (q <= limit) & (r.amin(0) >= known), "*some* modality has to know it"),
        (lambda q, r, limit, known: (q <= limit) & (r.amax(0) > known), "at least `known`"),
        (lambda q, r, limit, known: (q < limit) & (r.amax(0) >= known), "just at the threshold"),
        (lambda q, r, limit, known: (q <= 0.5) & (r.amax(0) >= 0.5), "not one half"),
        (lambda q, r, limit, known: (q <= limit) & (r[1] >= known), "Which modality knows a sample must not matter"),
        (lambda q, r, limit, known: (q <= limit) & (r.sum(0) >= known), "are not to be added up"),
        (lambda q, r, limit, known: (q <= limit) & ((r / r.mean(1, True)).amax(0) >= known), "or divided once more"),
        (lambda q, r, limit, known: (q <= limit).nonzero().squeeze(1), "a true or a false for each sample"),
        (lambda q, r, limit, known: q <= limit and r.amax(0) >= known, "RuntimeError"),
    ],
    "share_removed": [
        (lambda kept, bad: bad[~kept].double().mean(), "This is the precision"),
        (lambda kept, bad: kept[bad].double().mean(), "that is kept"),
        (lambda kept, bad: (~kept & bad).double().mean(), "divide by the number of degraded ones"),
        (lambda kept, bad: 1 - bad[kept].double().mean(), "three of the four are removed"),
        (lambda kept, bad: torch.tensor(0.75), "count, instead of assuming"),
    ],
}
