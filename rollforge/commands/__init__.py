"""One module for each command of ``rollforge``."""

COMMANDS = {
    "predict": "roll prompts to videos: mp4, contact sheet, manifest",
    "test": "roll prompts and measure what comes out, or measure given videos",
    "fit": "train the backbone (or the codec) of the same config",
    "compare": "measure several cache policies under the same prompts and seeds",
    "trajectories": "store a teacher's ODE solutions, for OdeRegression",
    "bench": "time the rollout: ms per block, first block apart, peak memory",
    "gpu": "check a CUDA card: results against the CPU, speed at the 1.3B shape",
    "doctor": "say whether machine, files and config will work, and how long it will take",
    "fetch": "print or run the downloads that a config needs",
    "decode": "decode kept latents again, with another codec if need be",
    "convert": "write published weights of a Wan transformer as one safetensors file",
    "plugins": "list every part that a config can name, or show one",
}
"""Their names, and what the list of commands says of them."""
