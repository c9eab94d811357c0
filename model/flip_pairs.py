"""Which keypoints change places when an image is mirrored, proposed from their names. Free of torch.

Names mark a side in many spellings: left_eye, Right Shoulder, lefteye, L_Eye, LEye, eyeL, forelegR1, LF_Paw, linkes Auge.
A pair is proposed only where the name of the other side is there too. A name with a side whose other side is missing, and
numbered names (kpt-0, kpt-1, …) that tell no side, cannot be paired, and then nothing is: mirrored by wrong pairs, a
training learns the wrong keypoint in every second image.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from masklake.model.errors import ModelError

_TOKENS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_a-zA-Z]+")
_WORDS = (
    ("left", "right"), ("link", "recht"), ("gauche", "droit"), ("izquierd", "derech"),
    ("esquerd", "direit"), ("sinistr", "destr"), ("左", "右"),
)  # fmt: skip
_WHOLE_WORDS = (("port", "starboard"), ("lft", "rgt"), ("lft", "rht"))
_LETTERS = {"l": "r", "r": "l"}
_MIDDLE = re.compile(
    r"mid|cent|spine|spinal|vertebra|back|neck|trunk|torso|tail|abdomen|thorax|body|belly|sternum|pelvis|nose|head"
)
"""Parts of a body that may be numbered along its middle."""

Tokens = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FlipPairs:
    """Positions of keypoints: `pairs` change places; `unpaired` have a side, or may have one, and no partner."""

    pairs: tuple[tuple[int, int], ...]
    unpaired: tuple[int, ...]

    @property
    def usable(self) -> bool:
        """Whether images may be mirrored by these pairs."""
        return not self.unpaired


def propose(names: Sequence[str]) -> FlipPairs:
    """The pairs that follow from the names. If there are several keypoints and none has a side, all are `unpaired`."""
    spelled = [_tokens(name) for name in names]
    places: dict[Tokens, list[int]] = defaultdict(list)
    for i, tokens in enumerate(spelled):
        places[tokens].append(i)
    partner: dict[int, int] = {}
    by_letter = False
    for swap in _SWAPS:
        for i, tokens in enumerate(spelled):
            others = places.get(swap(tokens), [])
            if len(others) != 1 or others[0] == i or {i, others[0]} & partner.keys():
                continue
            [other] = others
            if places.get(swap(spelled[other])) == [i]:
                partner |= {i: other, other: i}
                by_letter = by_letter or swap is not _words_swapped
    pairs = tuple(sorted((i, other) for i, other in partner.items() if i < other))
    series = _series(spelled)
    unpaired = tuple(
        i for i, tokens in enumerate(spelled)
        if i not in partner and (_words_swapped(tokens) != tokens or (by_letter and _has_letter(tokens)) or i in series)
    )  # fmt: skip
    if not pairs and len(names) > 1:
        unpaired = tuple(range(len(names)))
    return FlipPairs(pairs=pairs, unpaired=unpaired)


def parse(text: str, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The pairs in `left_eye:right_eye,left_ear:right_ear`, names of `names`; none in `none`. Raises ModelError."""
    if text == "none":
        return ()
    positions = {name: i for i, name in enumerate(names)}
    pairs = []
    for part in text.split(","):
        ends = [end.strip() for end in part.split(":")]
        if len(ends) != 2 or ends[0] == ends[1]:
            raise ModelError(f"--flip-pairs: {part!r} is not LEFT:RIGHT, the names of two keypoints")
        if unknown := [end for end in ends if end not in positions]:
            raise ModelError(
                f"--flip-pairs: there is no keypoint {unknown[0]!r}; there are {', '.join(names) or 'none'}"
            )
        pairs.append((positions[ends[0]], positions[ends[1]]))
    if len({end for pair in pairs for end in pair}) < 2 * len(pairs):
        raise ModelError("--flip-pairs: names a keypoint twice")
    return tuple(pairs)


def mirrored(names: Sequence[str], pairs: Sequence[tuple[int, int]] | None = None) -> list[int] | None:
    """For each keypoint the position of its counterpart in a mirrored image.

    pairs: of positions; None for those that `propose` finds by the names, and the result is None where these are not usable.
    """
    if pairs is None:
        proposed = propose(names)
        if not proposed.usable:
            return None
        pairs = proposed.pairs
    order = list(range(len(names)))
    for a, b in pairs:
        order[a], order[b] = b, a
    return order


def _tokens(name: str) -> Tokens:
    return tuple(token.lower().replace("droite", "droit") for token in _TOKENS.findall(name))


def _words_swapped(tokens: Tokens) -> Tokens:
    return tuple(map(_word_swapped, tokens))


def _word_swapped(token: str) -> str:
    for a, b in _WHOLE_WORDS:
        if token in (a, b):
            return b if token == a else a
    for a, b in _WORDS:
        for side, opposite in ((a, b), (b, a)):
            # "left" may be glued to anything; words of other languages begin theirs
            if token.startswith(side) or (side in ("left", "right", "左", "右") and side in token):
                return token.replace(side, opposite)
    return token


def _letters_swapped(change: Callable[[str], str]) -> Callable[[Tokens], Tokens]:
    return lambda tokens: tuple(map(change, tokens))


def _single(token: str) -> str:
    return _LETTERS.get(token, token)


def _first(token: str) -> str:
    return _LETTERS.get(token[0], token[0]) + token[1:]


def _last(token: str) -> str:
    return token[:-1] + _LETTERS.get(token[-1], token[-1])


def _only_first_token(tokens: Tokens) -> Tokens:
    return (_first(tokens[0]), *tokens[1:]) if tokens else tokens


def _only_last_token(tokens: Tokens) -> Tokens:
    return (*tokens[:-1], _last(tokens[-1])) if tokens else tokens


_SWAPS: tuple[Callable[[Tokens], Tokens], ...] = (
    _words_swapped,
    _letters_swapped(_single),
    _letters_swapped(lambda token: _first(token) if len(token) <= 2 else token),
    _letters_swapped(lambda token: _last(token) if len(token) <= 2 else token),
    _only_first_token,
    _only_last_token,
)


def _has_letter(tokens: Tokens) -> bool:
    return any(token in _LETTERS for token in tokens)


def _series(spelled: Sequence[Tokens]) -> set[int]:
    """Positions of names that differ from another only in a number, and are not of a body's middle."""
    alike: dict[Tokens, list[int]] = defaultdict(list)
    for i, tokens in enumerate(spelled):
        if any(token.isdigit() for token in tokens):
            alike[tuple("#" if token.isdigit() else token for token in tokens)].append(i)
    return set(_sideless(alike))


def _sideless(alike: dict[Tokens, list[int]]) -> Iterator[int]:
    for tokens, places in alike.items():
        if len(places) > 1 and not _MIDDLE.search(" ".join(tokens)):
            yield from places
