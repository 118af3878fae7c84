"""The one tap for every architecture: where a model keeps its experts, and how their work is watched or masked."""
