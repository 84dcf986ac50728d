"""The base of faceworld: LightningModules that train, once, everything that is frozen later.

    pictures, captions ─► autoencoder ─► latents ─┐
             └──────────► text tower ─► prompts ──┴► denoiser          = a small Stable Diffusion
             └──────────► face encoder                                  = what the hypernetwork looks through
             └──────────► recognizer, dino, clip, classifier            = the judges

`models` says how large each network is at a resolution, `views` hands out batches, `part` is what all trainings share.
"""
