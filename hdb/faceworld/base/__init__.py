"""The trainings of all networks in `hdb/faceworld/weights` but the hypernetwork.

    pictures, captions ─► autoencoder ─► latents ─┐
             └──────────► text encoder ─► prompts ┴► denoiser          = a small Stable Diffusion
             └──────────► face encoder                                  = the encoder of the hypernetwork
             └──────────► recognizer, dino, clip, classifier            = the judges of an evaluation

`models` defines each network at a resolution, `views` holds pictures and captions in memory, `training` is what all
trainings share, `parts` runs them one after the other, `measure` and `report` say what the weights reach.
"""
