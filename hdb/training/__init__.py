"""One LightningModule per stage: preoptimize, pretrain, personalize; and what they share."""
