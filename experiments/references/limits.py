"""Tolerances for differences from the articles' programs, for the tests and `docs/identity.md`.

Whether each is absolute or relative is stated there.
"""

# After 50 steps (losses to moments) or before training.
TORCH = {
    "logits, float32": 1e-5,
    "logits": 1e-12,
    "gradients": 1e-12,
    "same masks": 1e-12,
    "losses": 1e-10,
    "values": 1e-10,
    "moments": 1e-10,
    "loss, float32": 1e-6,
}
# After 20 steps.
THEANO = {"losses": 1e-12, "weights": 1e-12, "logits": 1e-12}
# A chain of BatchNorms amplifies rounding.
_LARGER = {("strided_cnn", "gradients"): 1e-11, ("strided_cnn", "same masks"): 1e-11}


def of_torch(what: str, network: str) -> float:
    """The tolerance for a network's difference from PyTorch."""
    return _LARGER.get((network, what), TORCH[what])
