"""The frozen Stable Diffusion that is personalized, and sampling from it.

- The base: `stable_diffusion` is the model, `base` loads the one that options name, `random_base` builds one with
  random weights, `digest` identifies it, `facts` describes it.
- Its files: `family` checks which models are supported, `folder` reads and writes diffusers' folders, `published` gives
  them names that all library versions read, `original` reads and writes single files.
- Personal weights in it: `personalized` binds LiDB residuals, `merged` writes a base with one person merged, `word`
  replaces the identifier by a learned embedding, `weights` exchanges the base's own weights.
- Use: `denoise` computes the diffusion loss, `guidance` and `sampling` make pictures, `sheet` arranges and saves them.
"""
