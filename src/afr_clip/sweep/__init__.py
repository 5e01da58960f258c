"""Sweeps: many trainings, each in a process and a folder of its own."""
