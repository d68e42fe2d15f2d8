"""Wrong answers to the exercises of `08_gmm_adaptive_training`, and a part of what each must be told."""


def factor(q, kappa):
    return 1 + kappa * q.detach()


def both_pulled(p, q, kappa):
    return factor(q, kappa) * (p.amax(0) - p.amin(0))


def weak_stopped(p, q, kappa):
    return factor(q, kappa) * (p.amax(0) - p.amin(0).detach())


def nothing_pulled(p, q, kappa):
    return both_pulled(p.detach(), q, kappa)


def stopped(p):
    return p.amax(0).detach() - p.amin(0)


def weak(p):
    return p == p.amin(0)


def trusted(p, nu):
    return p.amax(0) ** nu / (p.amax(0) ** nu).mean()


WRONG = {
    "alignment_penalty": [
        (both_pulled, "pulls the dominant modality's score down"),
        (weak_stopped, "pulls the dominant modality's score down"),
        (nothing_pulled, "It has no gradient"),
        (lambda p, q, kappa: (1 + kappa * q) * stopped(p), "calling samples balanced would lower the loss"),
        (lambda p, q, kappa: factor(1 - q, kappa) * stopped(p), "being *im*balanced"),
        (lambda p, q, kappa: factor(q, kappa) * (p[0].detach() - p[1]), "A penalty is negative"),
        (lambda p, q, kappa: kappa * q.detach() * stopped(p), "one plus κ times q"),
        (lambda p, q, kappa: (factor(q, kappa) * stopped(p)).mean(), "one penalty for each sample"),
        (
            lambda p, q, kappa: factor(q, kappa) * ((stopped(p) + 1).log().exp() - 1 - p.amin(0) + p.amin(0).detach()),
            "enters once",
        ),
        (lambda p, q, kappa: factor(q, kappa) * stopped(p[:2]), "With three modalities"),
    ],
    "head_weights": [
        (lambda p, q, rho, nu: trusted(p, nu) * (1 - rho * q).expand(p.shape), "both heads are treated alike"),
        (lambda p, q, rho, nu: trusted(p, nu) * (1 - rho * q * ~weak(p)), "It releases the dominant modality"),
        (
            lambda p, q, rho, nu: p.amax(0) ** nu / (p.amax(0) ** nu).sum() * (1 - rho * q * weak(p)),
            "has the *mean* one",
        ),
        (lambda p, q, rho, nu: trusted(1 - p, nu) * (1 - rho * q * weak(p)), "how well *some* modality knows"),
        (lambda p, q, rho, nu: (p.amax(0) / p.amax(0).mean()) ** nu * (1 - rho * q * weak(p)), "power ν first"),
        (lambda p, q, rho, nu: trusted(p, nu) * (1 - rho * (q >= 0.5) * weak(p)), "without a threshold"),
        (lambda p, q, rho, nu: trusted(p, nu) * (1 - rho * q * (p < p.amax(0))), "release the weakest one alone"),
        (lambda p, q, rho, nu: trusted(p, nu), "a weight for each head and sample"),
    ],
}
