"""What others write, read and written: config.json and tensor names, safetensors, model folders,
the Hub, and sentence-transformers' folders."""
