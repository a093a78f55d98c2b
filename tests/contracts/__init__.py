"""One suite of laws per interface.

A class inherits a suite and gives its fixtures, and every law is tested on it:

    class TestMine(DecoderContract):
        def make(self) -> Decoder:
            return Mine(coord_dim=2, value_dim=3, code_dim=4)
"""
