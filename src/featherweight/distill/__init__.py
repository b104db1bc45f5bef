"""One objective, every training method: SFT, LoRA, KD, NEO, CAT, Gatekeeper; and the way out."""
