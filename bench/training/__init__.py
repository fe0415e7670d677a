"""Training of the tiny checkpoint: tokenizer, autoencoder, U-Net with text encoder, export."""
