"""A stand-in for vbench: the same call, the same files in and out, and numbers out of a hash. Nothing is measured.

``STANDIN`` in the environment chooses what goes wrong: ``crash``, ``die``, ``missing``, ``nan``, ``empty``, ``hang``,
``leaves-out``, ``garbage``.
"""

import json
import os
import time
import zlib

BROKEN = os.environ.get("STANDIN", "")
UNLUCKY = "motion_smoothness"


def value(*words):
    """A number in 0..1 that depends on the words alone."""
    return zlib.crc32(" ".join(words).encode()) / 2**32


class VBench:
    """Takes the arguments of the original and writes ``<name>_eval_results.json``."""

    def __init__(self, device, full_info_dir, output_path):
        self.device, self.full_info, self.output = device, full_info_dir, output_path
        os.makedirs(output_path, exist_ok=True)

    def files(self, videos_path, mode, prompt_list, dimension):
        """The videos of a dimension."""
        names = os.listdir(videos_path)
        suffix = os.path.splitext(names[0])[1]
        if mode == "custom_input":
            assert sorted(prompt_list) == sorted(names), "prompts and files differ"
            return [os.path.join(videos_path, name) for name in names]
        with open(self.full_info) as file:
            prompts = [entry["prompt_en"] for entry in json.load(file) if dimension in entry["dimension"]]
        wanted = [f"{prompt}-{number}{suffix}" for prompt in prompts for number in range(5)]
        return [os.path.join(videos_path, name) for name in wanted if name in names]

    def evaluate(
        self, videos_path, name, prompt_list=(), dimension_list=None, local=False, read_frame=False,
        mode="vbench_standard", **kwargs
    ):  # fmt: skip
        results = {}
        for dimension in dimension_list:
            os.write(1, f"scoring {dimension}\n".encode())
            fail(dimension)
            paths = self.files(videos_path, mode, prompt_list, dimension)
            if BROKEN == "leaves-out":
                paths = paths[1:]
            videos = [{"video_path": path, "video_results": value(os.path.basename(path), dimension)} for path in paths]
            score = sum(video["video_results"] for video in videos) / len(videos)
            results[dimension] = [score, videos]
            if dimension == UNLUCKY:
                results[dimension][0] = float("nan") if BROKEN == "nan" else score
                results[dimension][1] = [] if BROKEN == "empty" else videos
                if BROKEN == "missing":
                    del results[dimension]
        with open(os.path.join(self.output, name + "_eval_results.json"), "w") as file:
            json.dump(results, file)


def fail(dimension):
    """Goes wrong half way, where that is asked for."""
    if dimension != UNLUCKY:
        return
    if BROKEN == "crash":
        raise RuntimeError("CUDA out of memory")
    if BROKEN == "die":
        os.write(2, b"Segmentation fault\n")
        os._exit(139)
    if BROKEN == "hang":
        time.sleep(600)
    if BROKEN == "garbage":
        job = os.path.abspath("job.json")
        with open(os.path.join(os.path.dirname(job), "result.json"), "w") as file:
            file.write('{"dimensions": ')
        os._exit(0)
