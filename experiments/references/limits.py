"""How far this project may be from the articles' programs: what the tests hold, and the page says.

Differences are absolute or relative as the page says of each.
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
# One BatchNorm after the other enlarges the rounding.
_LARGER = {("strided_cnn", "gradients"): 1e-11, ("strided_cnn", "same masks"): 1e-11}


def of_torch(what: str, network: str) -> float:
    """The limit of a network's difference from PyTorch."""
    return _LARGER.get((network, what), TORCH[what])
