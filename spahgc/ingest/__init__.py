"""Fill the store: slide folders in, Zarr out, embeddings included."""
