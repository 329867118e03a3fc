"""The observer that turns what a runner did into Prometheus metrics: those of the catalogue, in one registry."""

from streamproc.adapters.prometheus.observer import PrometheusObserver, Worker

__all__ = ["PrometheusObserver", "Worker"]
