"""The pages, one file each: a router, whose functions read and hand on to a template."""

from medmim_console.pages import compare, images, items, leaderboard, nights, runs

PAGES = (leaderboard.router, compare.router, items.router, images.router, nights.router, runs.router)
