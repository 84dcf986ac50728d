"""The page for people without a shell: `page` is what it shows, `portraits` what it asks of the model."""
