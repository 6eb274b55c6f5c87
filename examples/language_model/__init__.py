"""A language model teaches a small one: what each encoding of its knowledge costs and is worth."""
