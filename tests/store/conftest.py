"""An artifact in a bucket whose reads are counted, for the tests of copies."""

from tests.support.copies import artifact, proxy  # noqa: F401
