"""A check of rollforge on a CUDA card: is it right there, how fast is it, where does the time go?"""
