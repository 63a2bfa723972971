"""The pages, one file each: a router, whose functions read and hand on to a template."""

from medmim_console.pages import artifacts, compare, data, images, items, leaderboard, models, nights, runs

PAGES = (
    leaderboard.router,
    compare.router,
    items.router,
    images.router,
    data.router,
    models.router,
    artifacts.router,
    nights.router,
    runs.router,
)
