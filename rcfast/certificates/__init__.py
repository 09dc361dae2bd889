"""Certificates: what a vote over a region proves about the inputs near by."""

from .procedure import Certificates, Question, answer, certify, share_needed

__all__ = ["Certificates", "Question", "answer", "certify", "share_needed"]
