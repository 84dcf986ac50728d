"""One LightningModule per stage: preoptimize, pretrain, personalize; DreamBooth, Textual Inversion; what they share."""
