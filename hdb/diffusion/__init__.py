"""The frozen base and its pictures: its folder, the model, somebody's weights in it, pictures.

`pipeline` reads and writes folders in diffusers' layout, `stable_diffusion` is the frozen base, `sampling` draws many
people and prompts in one batch.
"""
