"""Training: one LightningModule per stage (preoptimize, pretrain, personalize, the baselines) and what they share."""
