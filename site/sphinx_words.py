"""The search index's words, each stemmed once: Sphinx asks its stemmer, which is plain Python, for each word of each
page."""

from functools import cache

from sphinx.search.en import SearchEnglish


class English(SearchEnglish):
    "Sphinx's own language, with a memory."

    @cache  # noqa: B019  # there is one, for as long as the process
    def stem(self, word):
        return super().stem(word)


def setup(app):
    "Called by Sphinx."
    app.add_search_language(English)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
