"""KV codecs that keep the raw keys and values of a rollout in 8 or 4 bits."""

from rollforge.registry import Register, hookimpl
from rollforge_kv_quant.codecs import FP8KVCodec, Int4KVCodec, Int8KVCodec, QuantizedKVCodec

__all__ = ["FP8KVCodec", "Int4KVCodec", "Int8KVCodec", "QuantizedKVCodec"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_kv_codec(register: Register) -> None:
    for codec in (Int8KVCodec, FP8KVCodec, Int4KVCodec):
        register(codec)
