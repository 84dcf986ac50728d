"""The page for people without a shell: `portraits` is what it can do, `visits` who is there, `page` how it looks."""
