"""A stand-in for VBench-Long: clips in ``split_clip``, grouped by what stands before the first underscore."""

import os
import shutil

from vbench import VBench


class VBenchLong(VBench):
    """Makes two "clips" of each video by copying it, unless clips are there; insists on what the original needs."""

    def files(self, videos_path, mode, prompt_list, dimension):
        folder = os.path.join(videos_path, "split_clip")
        if not os.path.isdir(folder):
            os.makedirs(folder)
            for name in os.listdir(videos_path):
                stem, suffix = os.path.splitext(name)
                if suffix == ".mp4":
                    os.makedirs(os.path.join(folder, stem))
                    for number in range(2):
                        clip = os.path.join(folder, stem, f"{stem}_{number:03d}.mp4")
                        shutil.copy(os.path.join(videos_path, name), clip)
        paths = []
        for stem in os.listdir(folder):
            for clip in os.listdir(os.path.join(folder, stem)):
                assert clip.split("_")[0] == stem, f"{clip} is taken for another video"
                paths.append(os.path.join(folder, stem, clip))
        return paths

    def evaluate(self, videos_path, name, **kwargs):
        for word in ("dev_flag", "w_inclip", "clip_length_config", "static_filter_flag", "num_of_samples_per_prompt"):
            assert word in kwargs, word
        super().evaluate(videos_path, name, **kwargs)
