"""Widgets that know nothing of processes or of the engine's workings; they are told what to show."""
