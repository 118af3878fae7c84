"""Where models come from: the hub, folders, GGUF files, training here; and what to know of one before a study."""
