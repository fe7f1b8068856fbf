"""All ads of a run on one page of HTML: `page` writes it, `records` puts lines into words. May import `kept`. How it looks is
in page.css and page.js.
"""
