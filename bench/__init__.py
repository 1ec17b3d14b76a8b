"""Benchmarks: the product beside a bare client, in interleaved rounds. Nothing is gated by them."""
