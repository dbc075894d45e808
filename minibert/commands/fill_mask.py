"""Print the likeliest words for each masked token, such as [MASK]."""

import argparse

from minibert.commands.options import add_json, add_model, add_texts, add_top, print_json
from minibert.files import one_line
from minibert.formats.hub import BERT_BASE, find_model
from minibert.formats.tokenizer import readable
from minibert.pretraining import BertForPreTraining, fill_masks
from minibert.terminal import painted
from minibert.texts import read_texts
from minibert.tokenizer import Tokenizer

USAGE = "%(prog)s [TEXT ...] [options]"
EXAMPLES = """\
%(prog)s "Paris is the [MASK] of France."
%(prog)s --model runs/own/model --top 3 "A [MASK]."
%(prog)s --input masked.txt"""


def add_options(command: argparse.ArgumentParser) -> None:
    add_texts(command)
    add_model(command, BERT_BASE)
    group = command.add_argument_group("output")
    add_top(group, 5, "how many words for each mask")
    add_json(group, "JSON lines, of text and masks: each mask's words with their probabilities")


def run(options: argparse.Namespace) -> None:
    texts = read_texts(options.texts, options.input)
    folder = find_model(options.model, options.revision).path
    model, _ = BertForPreTraining.from_folder(folder)
    config = model.bert.config
    tokenizer = Tokenizer.from_folder(folder, config.vocab_size)
    tokenizer.max_length = min(tokenizer.max_length or config.most_tokens, config.most_tokens)
    filled = [
        [
            [(readable(token, tokenizer.backend), probability) for token, probability in mask]
            for mask in fill_masks(model, tokenizer, text, options.top)
        ]
        for text in texts
    ]
    for text, masks in zip(texts, filled, strict=True):
        if options.json:
            words = [[{"word": word, "probability": p} for word, p in mask] for mask in masks]
            print_json({"text": text, "masks": words})
            continue
        print(painted(one_line(text), "strong"))
        for number, mask in enumerate(masks, start=1):
            if len(masks) > 1:
                print(f"  mask {number}")
            for word, probability in mask:
                print(f"{painted(f'{probability:9.4f}', 'number')}  {one_line(word)}")
