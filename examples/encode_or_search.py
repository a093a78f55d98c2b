"""To encode or not to encode: an autoencoder's decoder can be searched as well, and a hidden centre shows what that is worth.

python examples/encode_or_search.py [SOURCE]
"""

import sys
import tempfile

import neuralfield as nf

source = sys.argv[1] if len(sys.argv) > 1 else "mnist-mini"
encoder = ["latents.kind=encoder", "latents.network=convolutional", "latents.width=32", "training.latent_rate=3e-3"]
ways = {
    "encode": ["inference.kind=encode", "inference.start=encoder"],
    "encode, then search": ["inference.start=encoder"],
    "search alone": ["inference.start=mean"],
}
with tempfile.TemporaryDirectory() as folder:
    nf.fit(source, domain="image", settings=[*encoder, "inference.start=mean"], epochs=15, limit=1000, out=f"{folder}/run")
    for name, settings in ways.items():
        run = nf.Run.load(f"{folder}/run", settings)
        digits = nf.load_signals(run, source, split="test", limit=100)
        for side, hidden in (("observed", []), ("hidden", ["center:12"])):
            completion = nf.complete(run, digits, nf.Visibility(hide=hidden))
            score, evaluations = completion.means()[side]["psnr"], float(completion.estimate.evaluations.mean())
            print(f"{name:<20} {'centre' if hidden else 'whole':<7} {score:5.1f} dB  {evaluations:4.0f} evaluations")
