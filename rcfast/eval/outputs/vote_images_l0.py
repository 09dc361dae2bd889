"""The least noisy examples with which an attack on the vote succeeds, in L0."""

from rcfast.eval.outputs.vote_images import VoteImages


class VoteImagesL0(VoteImages):
    name = "vote_images_l0"
    title = "The least L0 noise that changes the vote"
    measured_in = 0.0


OUTPUT = VoteImagesL0()
