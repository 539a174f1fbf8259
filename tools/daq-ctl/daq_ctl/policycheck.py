"""``daq-ctl keywords policy``: check a header policy, without an exposure and without a product.

What is shown are the cards that a product gets when nobody gives any of the keywords, as the merger
writes them.
"""

from __future__ import annotations

import argparse
import json

from daqlib import cli, config, dictionary, errors, headerpolicy


def run(options: argparse.Namespace, words: list[str]) -> int:
    """Check the policy in a file; print its cards.

    Args:
        options: ``config`` and ``json``.
        words: the Config Path of the file; none takes the policy of the configuration.

    Raises:
        errors.Usage: other words, or there is no policy.
        errors.BadConfig: the policy or a dictionary is not right; names file, line, entry, reason.
    """
    if len(words) > 1:
        raise errors.Usage("keywords policy takes one file", "try 'daq-ctl --help'")
    settings = config.load(options.config)
    found = (headerpolicy.load(words[0], "the argument") if words
             else headerpolicy.of_site(settings))
    if found is None:
        raise errors.Usage("cfg/header/policy names no policy", "name a file, or set the key")
    found = headerpolicy.filled(found, dictionary.load(settings["dictionaries"]))
    cards = [card.decode("ascii").rstrip() for entry in headerpolicy.entries(found, found["file"])
             if entry.required or entry.default is not None
             for card in entry.cards(found["file"], cli.warn)]
    if options.json:
        cli.show(json.dumps({**found, "cards": cards}, indent=4, ensure_ascii=False))
        return errors.OK
    for card in cards:
        cli.show(card)
    return errors.OK
