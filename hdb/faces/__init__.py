"""Where reference images come from: photos are cropped, sources give people, data modules give batches."""
