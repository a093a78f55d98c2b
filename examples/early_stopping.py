"""Hold some signals out, and stop when the decoder no longer gets better at signals that it was not trained on.

Run with: python examples/early_stopping.py
"""

import neuralfield as nf

DIGITS, EPOCHS = 100, 60

run = nf.fit(
    "mnist-mini",
    domain="image",
    limit=DIGITS,
    epochs=EPOCHS,
    settings=[
        "training.validation=0.2",  # this share of the signals is held out; after each epoch their codes are searched
        "training.patience=3",  # stop after three epochs without a better decoder, and go back to the best one
        "training.decay=constant",  # with a cosine, an early stop would come before the rates have fallen
        "training.batch=16",
    ],
)

facts = run.facts
print(f"{facts['signals']} digits to learn from, {DIGITS - facts['signals']} held out")
print(f"stopped after {facts['epochs']} of at most {EPOCHS} epochs; the best decoder is that of epoch {facts['best_epoch']}")
print(f"its objective on the held-out digits: {facts['best_validation']:.3f} nats per pixel")
