"""Files -> examples: one file for each format, and what the formats share.

What is read, as a file (which is all train) or as the splits of a folder:

===================  ==============================================================================
.csv, .tsv           a table with a header; without one, the columns that the user names
.jsonl, .json        an object a line, or a list of them; doccano's and Label Studio's exports;
                     SQuAD's own file, and what other tools make of it
.conll               a word and its tags on each line, with a blank line between sentences
.conllu              Universal Dependencies: the tasks upos and xpos
.txt                 "__label__NAME text"; "label, tab, text"; a table with tabs; or CoNLL's columns
NAME/seq.in          SNIPS and ATIS, with NAME/seq.out and NAME/label
NAME_text.txt        TweetEval, with NAME_labels.txt and mapping.txt
corpus.jsonl         BEIR's collections, with queries.jsonl and qrels/: only measured
GLUE, SICK, STS-B,   tables as they are distributed: separated by tabs, unquoted, some of them
GoEmotions, SWAG     without a header
hub:OWNER/NAME       a data set of the Hugging Face Hub
===================  ==============================================================================

`read.py` finds the format; `reading.py` holds what the user says of it. `columns.py` turns named
fields into an example, and `settle.py` decides what only all values of a field tell together.

Plain text (`--text`) comes another way, since it may be larger than memory: `documents.py` reads
files as a stream, `token_file.py` tokenizes them once, and `corpus.py` makes sequences of that.
"""
