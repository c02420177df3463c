"""3DSAM-adapter: SAM's image encoder lifted to 3D, a prompt head for clicks, a decoder for volumes."""
