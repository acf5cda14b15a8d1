"""Benchmarks, noise, sampling, augmentation and batches. Knows no model."""
