"""How right the answers are: against exact fields, known floors and published numbers."""
