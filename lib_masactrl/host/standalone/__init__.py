"""The standalone host: the same control on a Stable Diffusion 1.x checkpoint file, without any WebUI.

An adapter, not a second WebUI: the networks are `ldm`'s own, the samplers are diffusers'.
"""
