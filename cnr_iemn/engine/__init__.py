"""Trainer, loggers, callbacks and run folders."""
