"""What a worker tells about itself: the catalogue of its metrics, and the fan-out to whoever watches."""
