"""An answer's text from its tokens, piece by piece, up to a stop string that the client named."""


class Words:
    """`add(token)` returns the text that has become certain; `stopped` tells that a stop string came, which is cut off.

    The end of the text is held back while it may be the beginning of a stop string.
    """

    def __init__(self, tokenizer, stop=()):
        self.decoder, self.stop = tokenizer.text_stream(), tuple(stop)
        self.text, self.held, self.stopped = "", "", False

    def add(self, token):
        return self._said(self.decoder.add(token))

    def flush(self):
        """The rest, once the last token has come"""
        if self.stopped:
            return ""
        piece = self._said(self.decoder.flush())
        if self.stopped:
            return piece
        rest, self.held = self.held, ""
        self.text += rest
        return piece + rest

    def _said(self, piece):
        self.held += piece if self.text or self.held else piece.lstrip()    # answers begin with the template's space
        found = [at for at in map(self.held.find, self.stop) if at >= 0]
        self.stopped = bool(found)
        certain = min(found) if found else len(self.held) - self._begun()
        piece, self.held = self.held[:certain], self.held[certain:]
        self.text += piece
        return piece

    def _begun(self):
        """How many of the last characters may be the beginning of a stop string"""
        longest = max(map(len, self.stop), default=1) - 1
        return next((n for n in range(min(longest, len(self.held)), 0, -1)
                     if any(word.startswith(self.held[-n:]) for word in self.stop)), 0)
