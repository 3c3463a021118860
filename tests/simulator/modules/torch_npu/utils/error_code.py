"""Simulated by npuops."""
