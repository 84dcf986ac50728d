"""The page for people without a shell: `portraits` computes, `visits` keeps files per visitor, `page` is the view."""
