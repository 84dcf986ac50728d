"""Methods compared on the same unseen people: their pictures, scores, tables, and what each piece of work costs."""
