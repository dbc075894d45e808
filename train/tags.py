"""How tags of words write entities: the schemes, how one is recognised, and what may follow what.

Shapes: T words of a text, C labels.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Entity = tuple[str, int, int]  # type, first word, word after the last
OUTSIDE = "O"


@dataclass(frozen=True)
class Scheme:
    """One way of writing entities as tags of words.

    letters: what a tag begins with that begins an entity, stands inside one, ends one, or is one by
    itself; only the first two, if no letter tells ends. No letters: a tag is the bare type. bare:
    there are no types, and a tag is the letter alone.
    """

    name: str
    letters: str
    bare: bool = False

    @property
    def tells_ends(self) -> bool:
        return len(self.letters) == 4

    def reads(self, tag: str) -> bool:
        """Whether this is a tag of the scheme."""
        if tag == OUTSIDE or not self.letters:
            return True
        return re.fullmatch(f"[{self.letters}]" + ("" if self.bare else "-.+"), tag) is not None

    def labels(self, tags: Iterable[str]) -> tuple[str, ...]:
        """All tags that the types of some tags can have."""
        if self.bare:
            return OUTSIDE, *self.letters
        types = sorted({self.parts(tag)[1] for tag in tags if tag != OUTSIDE})
        own = [f"{letter}-" for letter in self.letters] or [""]
        return OUTSIDE, *(letter + kind for kind in types for letter in own)

    def parts(self, tag: str) -> tuple[str, str]:
        """A tag as one of B, I, E, S, O, and its type."""
        if tag == OUTSIDE:
            return OUTSIDE, ""
        if not self.letters:
            return "I", tag
        letter, _, kind = tag.partition("-")
        return "BIES"[self.letters.index(letter)], kind

    def entities(self, tags: Sequence[str]) -> set[Entity]:
        """The entities of one text.

        Where no letter tells ends, they are CoNLL's (the script conlleval): a tag that goes on with
        nothing of its type begins an entity. Where one does, what does not both begin and end as it
        should is no entity (seqeval's strict mode).
        """
        found: set[Entity] = set()
        start, kind = -1, ""  # of the entity that has begun; -1 if none has
        for i, tag in enumerate([*tags, OUTSIDE]):
            place, own = self.parts(tag)
            goes_on = start >= 0 and place in "IE" and own == kind
            if start >= 0 and not goes_on:
                if not self.tells_ends:
                    found.add((kind, start, i))
                start = -1
            if place == "S":
                found.add((own, i, i + 1))
            elif place == "E" and goes_on:
                found.add((kind, start, i + 1))
                start = -1
            elif place == "B" or (place == "I" and not self.tells_ends and not goes_on):
                start, kind = i, own
        return found

    def may_follow(self, previous: str, tag: str) -> bool:
        """Whether a tag may stand after another. Before a text and after it is O."""
        before, kind = self.parts(previous)
        place, own = self.parts(tag)
        goes_on = before in "BI" and own == kind
        if self.tells_ends:
            return (place in "IE") == (before in "BI") and (goes_on or before not in "BI")
        if self.name.endswith("IOB1"):
            return place != "B" or goes_on
        return place != "I" or goes_on or not self.letters

    def cleaned(self, tags: Sequence[str]) -> Iterator[str]:
        """BIO tags in which every I- that goes on with nothing of its type is the B- that it
        means."""
        previous = OUTSIDE
        for tag in tags:
            if not self.may_follow(previous, tag):
                tag = "B" + tag[1:]
            yield tag
            previous = tag


_KINDS = (
    ("BIO", "BI"),
    ("IOB1", "BI"),  # B only where an entity follows another of its type (Ramshaw and Marcus 1995)
    ("BIOES", "BIES"),
    ("BILUO", "BILU"),
    ("BMES", "BMES"),
    ("BMEWO", "BMEW"),
)
TYPES = Scheme("types", "")
SCHEMES = {
    scheme.name: scheme
    for scheme in (
        *(Scheme(name, letters) for name, letters in _KINDS),
        *(Scheme(f"bare {name}", letters, bare=True) for name, letters in _KINDS),
        TYPES,
    )
}
BIO, IOB1 = SCHEMES["BIO"], SCHEMES["IOB1"]


def recognise(texts: Iterable[Sequence[str]]) -> Scheme | None:
    """The scheme of some texts' tags; None if they write no entities, as parts of speech.

    Bare types are told from parts of speech by an O among them. Raises ValueError with a tag that
    fits no scheme, where others are of BIO.
    """
    texts = list(texts)
    tags = {tag for text in texts for tag in text}
    if tags <= {OUTSIDE}:
        return BIO
    for scheme in SCHEMES.values():
        if not scheme.letters or not all(map(scheme.reads, tags)):
            continue
        if scheme.bare and "B" not in tags and not tags <= {"I", OUTSIDE}:
            continue
        iob1 = SCHEMES.get(re.sub("BIO$", "IOB1", scheme.name), scheme)
        return iob1 if _is_valid(iob1, texts) else scheme
    if any(tag[:2] in ("B-", "I-") for tag in tags):
        raise ValueError(min(tag for tag in tags if not BIO.reads(tag)))
    return TYPES if OUTSIDE in tags else None


def _is_valid(scheme: Scheme, texts: Iterable[Sequence[str]]) -> bool:
    return all(
        scheme.may_follow(previous, tag)
        for text in texts
        for previous, tag in zip([OUTSIDE, *text], text, strict=False)
    )


def types_of(tags: Iterable[str]) -> set[str]:
    """The types that some tags name, whatever their scheme; a tag that is no letter's is one."""
    return {re.sub("^[BIESLUMW]-(?=.)", "", tag) for tag in tags if tag != OUTSIDE}


def best_valid(logits: Tensor, labels: Sequence[str], scheme: Scheme) -> list[int]:
    """The most probable sequence of labels that the scheme allows: (T, C) -> T numbers.

    By the algorithm of Viterbi (1967): for each word and label, the best sequence that ends there
    is that label after the best of the sequences before it. The probability of a sequence is the
    product of its words'.
    """
    scores = logits.double().log_softmax(-1)  # (T, C)
    forbidden = torch.tensor(
        [[0.0 if scheme.may_follow(a, b) else -torch.inf for b in labels] for a in labels]
    ).double()  # (C, C)
    edge = list(labels).index(OUTSIDE)  # what stands before the text and after it
    best = scores[0] + forbidden[edge]  # (C)
    before: list[Tensor] = []
    for word in scores[1:]:
        paths = best.unsqueeze(1) + forbidden  # (C) -> (C, C)
        best, source = paths.max(0)  # (C, C) -> (C)
        best = best + word  # (C)
        before.append(source)
    path = [int((best + forbidden[:, edge]).argmax())]
    for source in reversed(before):
        path.append(int(source[path[-1]]))
    return path[::-1]
