"""Parameter-efficient tuning: what sits in the slots of a block."""
