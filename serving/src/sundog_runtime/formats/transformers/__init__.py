"""Format `transformers`: a directory that `save_pretrained` of Hugging Face transformers wrote."""
