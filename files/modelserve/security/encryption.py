"""Encrypt texts that hosts of the cluster fetch from the head's store. The key is derived from the cluster's token."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken

from modelserve.settings import Settings


def encrypt(settings: Settings, use: str, text: str) -> str:
    """Return an encrypted text.

    Args:
        settings: this host's settings.
        use: what the text is for; each use has a key of its own.
        text: the text.
    """
    return _cipher(settings, use).encrypt(text.encode()).decode()


def decrypt(settings: Settings, use: str, encrypted: bytes) -> str | None:
    """Return the text; None where it was encrypted with another token, or for another use."""
    try:
        return _cipher(settings, use).decrypt(encrypted).decode()
    except InvalidToken:
        return None


def _cipher(settings: Settings, use: str) -> Fernet:
    # The token is random, so that a plain hash makes a key of it.
    token = settings.token_file.read_bytes().strip()
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(f"modelserve {use} ".encode() + token).digest()))
