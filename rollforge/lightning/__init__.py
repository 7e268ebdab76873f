"""The Lightning side: the module, the data module, the callbacks, training and its checkpoints."""
