"""Parts that several families are built of."""
