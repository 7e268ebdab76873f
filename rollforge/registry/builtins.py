"""The built-in parts, registered through the same hooks as plugins; by name, not imported, so that starting is fast."""

from rollforge.registry.hooks import Register, hookimpl


@hookimpl
def rollforge_register_backbone(register: Register) -> None:
    register("rollforge.backbones.wan.network:Wan")
    register("rollforge.backbones.pocket.network:Pocket")


@hookimpl
def rollforge_register_sampler(register: Register) -> None:
    register("rollforge.samplers.few_step:FewStep")
    register("rollforge.samplers.euler:Euler")


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    register("rollforge.policies.window:Window")
    register("rollforge.policies.attention_sink:AttentionSink")
    register("rollforge.policies.sliding_indices:SlidingIndices")
    register("rollforge.policies.rolling_sink:RollingSink")
    register("rollforge.policies.long_live:LongLive")


@hookimpl
def rollforge_register_positions(register: Register) -> None:
    register("rollforge.positions.rope:Rope")
    register("rollforge.positions.base:NoPositions")
    register("rollforge.positions.base:FixedPositions")


@hookimpl
def rollforge_register_memory(register: Register) -> None:
    register("rollforge.memory.rollout:RolloutMemory")
    register("rollforge.memory.routed:RoutedMemory")


@hookimpl
def rollforge_register_noise(register: Register) -> None:
    register("rollforge.noise:IndependentNoise")
    register("rollforge.noise:RepeatedNoise")
    register("rollforge.noise:PerturbedNoise")
    register("rollforge.noise:FixedNoise")


@hookimpl
def rollforge_register_combine(register: Register) -> None:
    register("rollforge.memory.combine:BlendBranches")


@hookimpl
def rollforge_register_attention(register: Register) -> None:
    register("rollforge.memory.kernels:Sdpa")
    register("rollforge.memory.hub_kernels:FlashAttention3")
    register("rollforge.memory.hub_kernels:SageAttention")


@hookimpl
def rollforge_register_kv_codec(register: Register) -> None:
    register("rollforge.memory.kv_codec:IdentityKVCodec")


@hookimpl
def rollforge_register_codec(register: Register) -> None:
    register("rollforge.backbones.wan.codec:WanVAE")
    register("rollforge.backbones.wan.tiny:TinyWanDecoder")
    register("rollforge.backbones.pocket.codec:PocketCodec")


@hookimpl
def rollforge_register_finish(register: Register) -> None:
    register("rollforge.finish.enlarge:Enlarge")


@hookimpl
def rollforge_register_conditioner(register: Register) -> None:
    register("rollforge.backbones.wan.text:UMT5")
    register("rollforge.backbones.pocket.text:PocketText")


@hookimpl
def rollforge_register_objective(register: Register) -> None:
    register("rollforge.objectives.flow:TeacherForcing")
    register("rollforge.objectives.flow:DiffusionForcing")
    register("rollforge.objectives.bidirectional:Bidirectional")
    register("rollforge.objectives.resampling:ResamplingForcing")
    register("rollforge.objectives.ode:OdeRegression")
    register("rollforge.objectives.consistency:ConsistencyDistillation")
    register("rollforge.objectives.reconstruction:Reconstruction")
    register("rollforge.objectives.adversarial:AdversarialReconstruction")
    register("rollforge.objectives.restoration:Restoration")
    register("rollforge.objectives.self_forcing:SelfForcing")
    register("rollforge.objectives.long_tuning:LongTuning")


@hookimpl
def rollforge_register_matching(register: Register) -> None:
    register("rollforge.objectives.dmd:DMD")
    register("rollforge.objectives.sid:SiD")
    register("rollforge.objectives.gan:GAN")


@hookimpl
def rollforge_register_metric(register: Register) -> None:
    for name in (
        *("colour:ColourHistogram", "colour:Exposure", "flicker:Flicker", "flicker:Stagnation"),
        "fixed_camera:FixedCamera",
        *("latents:LatentStatistics", "motion:Motion", "repetition:Repetition", "seams:Seams"),
        *("sharpness:Sharpness", "suite:DriftSuite", "truth:WorldTruth"),
    ):
        register(f"rollforge.metrics.{name}")


@hookimpl
def rollforge_register_flow(register: Register) -> None:
    register("rollforge.metrics.flow:DIS")


@hookimpl
def rollforge_register_dataset(register: Register) -> None:
    register("rollforge.data.clips:WorldClips")
    register("rollforge.data.prompt_clips:Prompts")
    register("rollforge.data.clips:VideoClips")
    register("rollforge.data.trajectories:Trajectories")
