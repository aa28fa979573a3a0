"""TextEmbedding: sentences as 384 numbers (all-MiniLM-L6-v2), and how alike two sentences are."""
