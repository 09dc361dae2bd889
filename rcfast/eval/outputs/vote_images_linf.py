"""The least noisy examples with which an attack on the vote succeeds, in L∞."""

from rcfast.eval.outputs.vote_images import VoteImages


class VoteImagesLinf(VoteImages):
    name = "vote_images_linf"
    title = "The least L∞ noise that changes the vote"
    measured_in = float("inf")


OUTPUT = VoteImagesLinf()
