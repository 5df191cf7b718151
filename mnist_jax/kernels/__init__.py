"""How a device computes a layer: the only place that knows layouts."""
