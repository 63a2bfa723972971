"""The pages, one file each: a router, whose functions read and hand on to a template."""

from medmim_console.pages import leaderboard, nights, runs

PAGES = (leaderboard.router, nights.router, runs.router)
