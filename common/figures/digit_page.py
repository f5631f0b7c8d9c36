def write(path, digits, latent, encoder, decoder, title, prior):
    pass
