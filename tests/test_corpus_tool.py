"""The corpora that tools/corpus.py makes: what is kept of pages, of WikiText-2 and of WordNet."""

import csv
from pathlib import Path

import pytest

from minibert.files import InputError
from tools import corpus

FIRST = "The first paragraph is long enough to be taken for prose by the tool that reads it."
SECOND = "The second paragraph tells of something else, and it is of about the same length too."
THIRD = "The third paragraph stands below a heading, and so it is part of a section of its own."


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A folder like /usr/share, with a page or two of each package."""
    page = "<html><head><title>" + FIRST + "</title></head><body><p>Home</p><h1>" + FIRST
    page += "</h1><p>{}</p><pre>" + FIRST + "</pre><ul><li><p>{}</p><li>Next</ul></body></html>"
    files = {
        "doc/linux-doc-6.1/html/mm/a.html": page.format(
            FIRST.replace("first", "<em>fi</em>rst").replace("enough", "en&ouml;ugh\n "), SECOND
        ),
        "doc/linux-doc-6.1/html/b.html": f"<p>{FIRST}</p><h2>Of its own</h2><p>{THIRD}¶</p>",
        "doc/python3.11/html/a.html": f"<div>{FIRST}<p>{FIRST}</div>",
        "perl/5.36.0/pod/perl.pod": "=head1 Name\n\nI<This> paragraph tells of C<<  $a->b  >> and "
        "of L<the L<B<syntax>>|perlsyn/X> of Perl,\nand of what comes after these two.X<index>\n\n"
        f"    {FIRST}\n\n=item {SECOND}\n",
        "doc/postgresql-doc-15/html/a.html": "<p>int four(int a, int b, int c, int d); [1] (2)</p>",
        "doc/apache2-doc/manual/en/a.html": "",
        "doc/git-doc/a.html": "",
        "doc/anarchism/html/a.html": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def blocks(file: Path) -> set[str]:
    return set(file.read_text(encoding="utf-8").removesuffix("\n").split("\n\n"))


def test_prose_is_the_paragraphs_of_sections_each_of_them_once(share: Path, tmp_path: Path) -> None:
    corpus.write_prose(tmp_path, None, share)
    assert blocks(tmp_path / "train.txt") == {
        FIRST,
        FIRST.replace("enough", "enöugh") + "\n" + SECOND,
        THIRD,
        "This paragraph tells of $a->b and of the syntax of Perl, and of what comes after these "
        "two.",
    }
    assert not (tmp_path / "dev.txt").exists()


def test_two_runs_write_the_same_file(share: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        corpus.write_prose(tmp_path / name, None, share)
    assert (tmp_path / "a/train.txt").read_bytes() == (tmp_path / "b/train.txt").read_bytes()


def test_a_missing_package_is_named_with_what_installs_it(share: Path, tmp_path: Path) -> None:
    (share / "doc/git-doc/a.html").unlink()
    with pytest.raises(InputError, match=r"no files of git-doc in .*: apt-get install git-doc$"):
        corpus.write_prose(tmp_path, None, share)
    with pytest.raises(InputError, match=r"apt-get install wordnet-base$"):
        corpus.write_wordnet(tmp_path / "pairs.csv", share)


def test_wikitext_is_written_as_people_write(share: Path, tmp_path: Path) -> None:
    text = (
        " \n = Lobster = \n \n"
        ' It lives 2 @.@ 5 years ( in well @-@ kept " <unk> tanks " ) , and does n\'t move .\n'
        " \n = = Food = = \n \n"
        " The lobster 's food was described by 1 @,@ 200 people , of whom few had eaten any ;\n"
    )
    for name in ("valid.txt", "test.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    corpus.write_prose(tmp_path / "out", tmp_path, share)
    assert blocks(tmp_path / "out/dev.txt") == {
        'It lives 2.5 years (in well-kept "[UNK] tanks"), and doesn\'t move.',
        "The lobster's food was described by 1,200 people, of whom few had eaten any;",
    }


def test_wordnet_pairs_a_definition_with_each_example(share: Path, tmp_path: Path) -> None:
    (share / "wordnet").mkdir()
    (share / "wordnet/data.adj").write_text(
        '  1 THIS SOFTWARE IS PROVIDED "AS IS" | or so  \n'
        '00001740 00 a 01 able 0 001 = 05200169 n 0000 | having the skill; or means; "able, '
        'to swim"; "she was able"- Someone  \n'
        "00002730 00 a 01 acroscopic 0 000 | facing the apex  \n"
    )
    corpus.write_wordnet(tmp_path / "pairs.csv", share)
    with (tmp_path / "pairs.csv").open(encoding="utf-8", newline="") as stream:
        header, *pairs = csv.reader(stream)
    assert header == ["anchor", "positive"]
    assert sorted(pairs) == [
        ["having the skill; or means", "able, to swim"],
        ["having the skill; or means", "she was able"],
    ]
